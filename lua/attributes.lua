-- attributes.lua gives all attributes of a room.
--
-- Uses     value clock limits room query
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user     who asks
-- ARGV[3]  session
--
-- Returns  {"ok", epoch, seq, key, field, …}  as attrs has them
--          {"noroom"}
--          {"notin"}  the session is not in the room

local part = KEYS[1]
local id, user, session = ARGV[1], ARGV[2], ARGV[3]

local now_ms = now()
local room, refused = may_ask(part, id, user, session, now_ms)
if not room then
  return refused
end
local attrs = key(part, "attrs", id)
local reply = { "ok", room.epoch, number(room.seq) }
for i, text in ipairs(call("HGETALL", attrs)) do
  reply[3 + i] = text
end
return reply
