-- admitted.lua is told what became of rooms of one partition that had been admitted:
-- those that are there are not in the making any more, the places of the others are
-- given back. No room may have begun with such a ticket since.
--
-- Uses     value admission
--
-- KEYS[1]  partition  prefix  of partition 0, see admit
--
-- ARGV[1]  number_of_partition
-- ARGV[2]  count  of the rooms; three arguments each follow
-- ARGV[3]  room, ticket, there, …  there is "1" for a room that exists
--
-- Returns  {"ok"}
--          {"uncounted"}  the partition's rooms are being counted: nothing was changed
--
-- Publishes  nothing

local part, partition, count = KEYS[1], ARGV[1], tonumber(ARGV[2])

if not count_of(part, partition) then
  return { "uncounted" }
end
local admitted = key(part, "admitted", partition)
for i = 0, count - 1 do
  local id, ticket, there = ARGV[3 + 3 * i], tonumber(ARGV[4 + 3 * i]), ARGV[5 + 3 * i]
  -- A later one has been admitted anew, and is not what was looked at.
  if tonumber(call("ZSCORE", admitted, id) or 0) <= ticket then
    call("ZREM", part .. "making", partition .. NUL .. id)
    if there ~= "1" then
      call("ZREM", admitted, id)
    end
  end
end
return { "ok" }
