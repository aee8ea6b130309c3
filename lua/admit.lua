-- admit.lua gives a room that is to be created a place among those that may exist,
-- where they are counted together over several hash slots (docs/cluster.md).
--
-- Uses     value clock admission
--
-- KEYS[1]  partition  prefix  of partition 0: admissions hash, making zset, and by
--                             partition admitted, a zset of room by ticket
--
-- ARGV[1]  room
-- ARGV[2]  number_of_partition  of the room
-- ARGV[3]  partitions
-- ARGV[4]  max_rooms
-- ARGV[5]  above       a ticket that the room's has to be above
--
-- Returns  {"ok", number, ticket}          one that there was already is kept, if it is above
--          {"uncounted", partition, …}     the rooms of these have to be counted first
--          {"roomlimit"}                   as many have been admitted as may exist
--
-- Publishes  nothing

local part = KEYS[1]
local id, partition, partitions, max_rooms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local above = tonumber(ARGV[5])

-- Decide.
local missing = uncounted(part, partitions)
if #missing > 0 then
  return { "uncounted", unpack(missing) }
end
local now_ms, now_us = now()
local admitted = key(part, "admitted", partition)
local ticket = tonumber(call("ZSCORE", admitted, id) or 0)
if ticket == 0 then
  local n = 0
  for p = 0, partitions - 1 do
    n = n + call("ZCARD", key(part, "admitted", tostring(p)))
  end
  if n >= max_rooms then
    return { "roomlimit" }
  end
end

-- Apply. What is in the making is so until somebody has seen the room.
local counted = count_of(part, partition)
if ticket <= above then
  ticket = math.max(now_us, above + 1, tonumber(counted) + 1)
end
call("ZADD", admitted, number(ticket), id)
call("ZADD", part .. "making", number(awake(part, now_ms)), partition .. NUL .. id)
return { "ok", counted, number(ticket) }
