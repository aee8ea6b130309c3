-- relay.lua passes a command or barrage on to who is in the room now. Nothing
-- is stored: it carries the room's seq at this moment, and is delivered to
-- those who had entered by then. Several calls may go together.
--
-- Uses     value clock together limits room
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  count  of the messages
-- ARGV[2]  room, user, session, generation, message_id, priority, payload, …
--            priority is 1–3
--            payload is opaque
--
-- Returns  {"ok", epoch, after, message_seq, order_key, timestamp, message_id}
--          {"noroom"}
--          {"notin"}   the session is not in the room
--          {"fenced"}  the session has moved to another connection, or is parked
--          Of several messages: a list of these.
--
-- Publishes  "c", whose seq is the position it comes after

local part, count = KEYS[1], tonumber(ARGV[1])
local now_ms, now_us = now()

-- relay gives what is answered for one message.
local function relay(id, user, session, generation, message_id, priority, payload)
  -- Decide.
  local head = call("HMGET", part .. "room:" .. id, "epoch", "seq", "term", "deadline", "messageSeq", "order")
  -- Here act

  -- Announce.
  local epoch, seq, message_seq = head[1], head[2], head[5]
  local order_key, at = number(math.max(now_us, head[6] or 0)), number(now_ms)
  call("PUBLISH", part .. "ch:" .. id, event(epoch, seq, "c", at, session, user,
    message_seq .. ":" .. order_key, priority .. ":" .. message_id, payload))
  return { "ok", epoch, seq, message_seq, order_key, at, message_id }
end

return together(count, relay, 2, 7)
