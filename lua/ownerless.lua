-- ownerless.lua deletes those attributes of rooms that go with their owner, where the
-- owner is not in the room: whoever left while data was lost, or was not put back.
--
-- Uses     value clock limits room log attributes
--
-- KEYS[1]  partition  prefix  of the rooms' partition
--
-- ARGV[1]  log_size   events
-- ARGV[2]  log_bytes
-- ARGV[3]  log_ttl    ms
-- ARGV[4]  count      of the rooms; they follow
-- ARGV[5]  room, …
--
-- Returns  {"ok"}
--
-- Publishes  "a" in rooms that had such

local part, count = KEYS[1], tonumber(ARGV[4])
local limits = { size = ARGV[1], bytes = ARGV[2], ttl = tonumber(ARGV[3]) }

local now_ms = now()
for i = 1, count do
  local id = ARGV[4 + i]
  local room = load(part, id, now_ms)
  if room and room.bequests then
    bequeath_room(part, id, room, nil, now_ms, limits)
  end
end
return { "ok" }
