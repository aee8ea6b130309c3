-- post.lua sends a message to a room on a backend's word, in the name of a user who
-- need not be in it. What is kept is numbered and stored as by send; what is not goes
-- to who is in the room now, as by relay.
--
-- Uses     value clock limits room log
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user
-- ARGV[3]  message_id
-- ARGV[4]  priority   1–3 of one that is not kept; "" of one that is
-- ARGV[5]  payload    opaque
-- ARGV[6]  log_size   events
-- ARGV[7]  log_bytes
-- ARGV[8]  log_ttl    ms
--
-- Returns  {"ok", epoch, seq, message_seq, order_key, timestamp}  of one that is not
--                     kept seq is the position that it comes after
--          {"noroom"}
--
-- Publishes  "m", or "c"

local part = KEYS[1]
local id, user, message_id, priority, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local log_size, log_bytes, log_ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]

-- Decide.
local now_ms, now_us = now()
local room = load(part, id, now_ms)
if not room then
  return { "noroom" }
end
local room_key = key(part, "room", id)
local head = call("HMGET", room_key, "messageSeq", "order", "logbytes")
local epoch, at, last = room.epoch, number(now_ms), head[2] and tonumber(head[2])

if priority ~= "" then
  local seq, message_seq, order_key = number(room.seq), head[1], number(math.max(now_us, last or 0))
  publish(part, id, event(epoch, seq, "c", at, "", user, message_seq .. ":" .. order_key, priority .. ":" .. message_id, payload))
  return { "ok", epoch, seq, message_seq, order_key, at }
end

-- Apply. The first write needs memory, so that a full Redis refuses all of it.
local seq, message_seq, order_key = number(room.seq + 1), number(head[1] + 1), number(math.max(now_us, (last or 0) + 1))
local message = event(epoch, seq, "m", at, "", user, message_seq .. ":" .. order_key, message_id, payload)
local bytes = append(part, id, message, now_us, last, head[3] or 0, log_size, log_bytes, log_ttl)
call("HSET", room_key, "seq", seq, "messageSeq", message_seq, "order", order_key, "logbytes", number(bytes))

-- Announce.
publish(part, id, message)
return { "ok", epoch, seq, message_seq, order_key, at }
