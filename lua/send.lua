-- send.lua stores a text or custom message: a room event that is numbered,
-- kept for those who come back, and announced.
--
-- Uses     value clock room log request act
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]   room
-- ARGV[2]   user
-- ARGV[3]   session
-- ARGV[4]   generation
-- ARGV[5]   request_key  "" for none
-- ARGV[6]   message_id
-- ARGV[7]   payload      opaque
-- ARGV[8]   did_ttl      ms
-- ARGV[9]   log_size     events
-- ARGV[10]  log_bytes
-- ARGV[11]  log_ttl      ms
--
-- Returns  {"ok", epoch, seq, message_seq, order_key, timestamp, message_id}
--          {"again", …}  the same, of an earlier call under this request_key
--          {"noroom"}
--          {"notin"}     the session is not in the room
--          {"misused"}   the request_key was another request's
--          {"fenced"}    the session has moved to another connection, or is parked
--
-- Publishes  "m"

local part = KEYS[1]
local id, user, session, generation, request_key = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local message_id, payload, did_ttl = ARGV[6], ARGV[7], ARGV[8]
local limits = { size = tonumber(ARGV[9]), bytes = tonumber(ARGV[10]), ttl = tonumber(ARGV[11]) }

-- Decide.
local before, misused = outcome(part, session, request_key, "send", id)
if misused then
  return { "misused" }
end
if before then
  return { "again", before:match("^(%d+)%z(%d+)%z(%d+)%z(%d+)%z(%d+)%z(.*)$") }
end
local now_ms, now_us = now()
local room, refused = may_act(part, id, user, session, generation, now_ms)
if not room then
  return refused
end

-- Apply. The first write needs memory, so that a full Redis refuses all of it.
local seq, message_seq = room.seq + 1, tonumber(room.message_seq) + 1
local order_key = number(math.max(now_us, room.order + 1))
local at = number(now_ms)
local message = event(room.epoch, seq, "m", now_ms, session, user,
  number(message_seq) .. ":" .. order_key, message_id, payload)
local bytes = append(part, id, message, seq, now_ms, room.log_bytes, limits)
call("HSET", key(part, "room", id), "seq", seq, "messageSeq", message_seq, "order", order_key, "logbytes", bytes)
local reply = { "ok", room.epoch, number(seq), number(message_seq), order_key, at, message_id }
remember(part, session, request_key, "send", id, table.concat(reply, NUL, 2), did_ttl)

-- Announce.
publish(part, id, message)
return reply
