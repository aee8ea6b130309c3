-- memberinfo.lua looks up some users among a room's members.
--
-- Uses     value clock limits room query
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user     who asks
-- ARGV[3]  session
-- ARGV[4]  count    of the users looked up, at least 1; they follow
-- ARGV[5]  user, …
--
-- Returns  {"ok", epoch, seq, data, …}  "" for one who is not a member
--          {"noroom"}
--          {"notin"}  the session is not in the room

local part = KEYS[1]
local id, user, session, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local now_ms = now()
local room, refused = may_ask(part, id, user, session, now_ms)
if not room then
  return refused
end
local reply = { "ok", room.epoch, number(room.seq) }
local values = call("HMGET", key(part, "info", id), unpack(ARGV, 5, 4 + count))
for i = 1, count do
  reply[3 + i] = values[i] and membership(values[i]).data or ""
end
return reply
