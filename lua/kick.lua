-- kick.lua takes a user out of a room on a backend's word (row 30).
--
-- Uses     value clock place limits room log attributes depart
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  user       hash    the user's sessions and rooms
--
-- ARGV[1]  room
-- ARGV[2]  user
-- ARGV[3]  extended  what the user is told; opaque
-- ARGV[4]  log_size  events
-- ARGV[5]  log_bytes
-- ARGV[6]  log_ttl   ms
-- ARGV[7]  gone_ttl  ms
--
-- Returns  {"ok", epoch, seq}
--          {"noroom"}
--          {"notin"}  the user is not in the room
--
-- Publishes  what leave does

local part, user_key = KEYS[1], KEYS[2]
local id, user, extended = ARGV[1], ARGV[2], ARGV[3]
local limits = { size = ARGV[4], bytes = ARGV[5], ttl = ARGV[6], gone = ARGV[7] }

local now_ms = now()
local room = load(part, id, now_ms)
if not room then
  return { "noroom" }
end
local m = membership(call("HGET", key(part, "info", id), user))
if not m then
  return { "notin" }
end
local seq = depart(part, id, room, user_key, user, m, "kicked", extended, "", limits, now_ms)
return { "ok", room.epoch, seq }
