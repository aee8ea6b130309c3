-- tally.lua lists the rooms of a partition for a count of them. From the first call
-- on no room begins with an admission of another count.
--
-- Uses     value admission
--
-- KEYS[1]  partition  prefix  of its keys
--
-- ARGV[1]  number  of the count
-- ARGV[2]  after   a room's ID, where the last call came to; "" for the first
-- ARGV[3]  limit   of rooms in this call
--
-- Returns  {"ok", after, room, ticket, …}  after is "" when all have been listed
--          {"late"}  there has been a later count
--
-- Publishes  nothing

local part, count, after, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])

if tonumber(count_number(part)) > tonumber(count) then
  return { "late" }
end
call("HSET", part .. "clock", "counted", count .. NUL .. TERM)
local ids = call("ZRANGEBYLEX", part .. "rooms", after == "" and "-" or "(" .. after, "+", "LIMIT", 0, limit)
local reply = { "ok", #ids == limit and ids[limit] or "" }
for _, id in ipairs(ids) do
  local f = call("HMGET", key(part, "room", id), "epoch", "admitted")
  if f[1] then -- else it has expired, and its end is still to be announced
    local ticket = number(math.max(tonumber(f[2] or 0), tonumber(count)))
    call("HSET", key(part, "room", id), "admitted", ticket)
    reply[#reply + 1] = id
    reply[#reply + 1] = ticket
  end
end
return reply
