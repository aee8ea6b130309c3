-- destroy.lua ends a room at once for everyone in it (row 29).
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
--
-- Returns  {"ok", epoch}
--          {"noroom"}
--
-- Publishes  "d", and "destroyed" on the life channel

local part, id = KEYS[1], ARGV[1]

local now_ms = now()
local room = load(part, id, now_ms)
if not room then
  return { "noroom" }
end
finish(part, id, room, "destroyed", now_ms)
return { "ok", room.epoch }
