-- positions.lua says where some rooms of a partition are now.
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the rooms' partition
--
-- ARGV[1]  count  of the rooms; they follow
-- ARGV[2]  room, …
--
-- Returns  {"ok", epoch, seq, …}  two values a room, "" and "0" for none

local part, count = KEYS[1], tonumber(ARGV[1])

local now_ms = now()
local reply = { "ok" }
for i = 1, count do
  local room = load(part, ARGV[1 + i], now_ms)
  reply[2 * i] = room and room.epoch or ""
  reply[2 * i + 1] = room and number(room.seq) or "0"
end
return reply
