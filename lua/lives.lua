-- lives.lua says which lives some rooms of a partition are in now.
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the rooms' partition
--
-- ARGV[1]  count  of the rooms; they follow
-- ARGV[2]  room, …
--
-- Returns  {"ok", epoch, seq, base, from, …}  four values a room, "" and "0" for
--                          none; base is where an epoch begins that goes back to
--                          those in from, ",epoch,…,", because data was lost

local part, count = KEYS[1], tonumber(ARGV[1])

local now_ms = now()
local reply = { "ok" }
for i = 1, count do
  local room = load(part, ARGV[1 + i], now_ms)
  local base, from = healing(part, ARGV[1 + i], room)
  local n = #reply
  reply[n + 1], reply[n + 2] = room and room.epoch or "", room and number(room.seq) or "0"
  reply[n + 3], reply[n + 4] = base, from
end
return reply
