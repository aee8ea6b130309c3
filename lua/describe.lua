-- describe.lua tells of some rooms of a partition, for backends.
--
-- Uses     value clock limits room attributes describe
--
-- KEYS[1]  partition  prefix  of the rooms' partition
--
-- ARGV[1]  all    "1": with their attributes
-- ARGV[2]  count  of the rooms; they follow
-- ARGV[3]  room, …
--
-- Returns  {"ok", now, epoch, seq, name, members, delay, created, deadline,
--          attributes, key, value, …, …}  for each room as lib/describe.lua says;
--                                         now is Redis's time in ms

local part, all, count = KEYS[1], ARGV[1] == "1", tonumber(ARGV[2])

local now_ms = now()
local reply = { "ok", number(now_ms) }
for i = 1, count do
  local id = ARGV[2 + i]
  describe(reply, part, id, load(part, id, now_ms), all)
end
return reply
