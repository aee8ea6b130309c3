-- relay.lua passes a command or barrage on to who is in the room now. Nothing
-- is stored: it carries the room's seq at this moment, and is delivered to
-- those who had entered by then.
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user
-- ARGV[3]  session
-- ARGV[4]  generation
-- ARGV[5]  message_id
-- ARGV[6]  priority  1–3
-- ARGV[7]  payload   opaque
--
-- Returns  {"ok", epoch, after, message_seq, order_key, timestamp, message_id}
--          {"noroom"}
--          {"notin"}   the session is not in the room
--          {"fenced"}  the session has moved to another connection, or is parked
--
-- Publishes  "c", whose seq is the position it comes after

local part = KEYS[1]
local id, user, session, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local message_id, priority, payload = ARGV[5], ARGV[6], ARGV[7]

-- Decide.
local now_ms, now_us = now()
local head = call("HMGET", part .. "room:" .. id, "epoch", "seq", "term", "deadline", "messageSeq", "order")
-- Here act

-- Announce.
local epoch, seq, message_seq = head[1], head[2], head[5]
local order_key, at = number(math.max(now_us, head[6] or 0)), number(now_ms)
call("PUBLISH", part .. "ch:" .. id, event(epoch, seq, "c", at, session, user,
  message_seq .. ":" .. order_key, priority .. ":" .. message_id, payload))
return { "ok", epoch, seq, message_seq, order_key, at, message_id }
