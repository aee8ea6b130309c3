-- send.lua stores a text or custom message: a room event that is numbered,
-- kept for those who come back, and announced. Several calls may go together.
--
-- Uses     value clock together limits room log request
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  count      of the messages
-- ARGV[2]  did_ttl    ms
-- ARGV[3]  log_size   events
-- ARGV[4]  log_bytes
-- ARGV[5]  log_ttl    ms
-- ARGV[6]  room, user, session, generation, request_key, message_id, payload, …
--            request_key is "" for none
--            payload is opaque
--
-- Returns  {"ok", epoch, seq, message_seq, order_key, timestamp, message_id}
--          {"again", …}  the same, of an earlier call under this request_key
--          {"noroom"}
--          {"notin"}     the session is not in the room
--          {"misused"}   the request_key was another request's
--          {"fenced"}    the session has moved to another connection, or is parked
--          Of several messages: a list of these.
--
-- Publishes  "m"

local part, count, did_ttl = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local log_size, log_bytes, log_ttl = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now_ms, now_us = now()

-- send gives what is answered for one message.
local function send(id, user, session, generation, request_key, message_id, payload)
  -- Decide.
  local before, misused, did_at = outcome(part, session, request_key, "send", id)
  if misused then
    return { "misused" }
  end
  if before then
    return { "again", before:match("^(%d+)%z(%d+)%z(%d+)%z(%d+)%z(%d+)%z(.*)$") }
  end
  local room_key = part .. "room:" .. id
  local head = call("HMGET", room_key, "epoch", "seq", "term", "deadline", "messageSeq", "order", "logbytes")
  -- Here act

  -- Apply. The first write needs memory, so that a full Redis refuses all of it.
  local epoch, seq, message_seq, last = head[1], number(head[2] + 1), number(head[5] + 1), head[6] and tonumber(head[6])
  local order_key, at = number(math.max(now_us, (last or 0) + 1)), number(now_ms)
  local message = event(epoch, seq, "m", at, session, user, message_seq .. ":" .. order_key, message_id, payload)
  local bytes = append(part, id, message, now_us, last, head[7] or 0, log_size, log_bytes, log_ttl)
  call("HSET", room_key, "seq", seq, "messageSeq", message_seq, "order", order_key, "logbytes", number(bytes))
  remember(part, session, request_key, "send", id, epoch .. NUL .. seq .. NUL .. message_seq .. NUL .. order_key ..
    NUL .. at .. NUL .. message_id, did_ttl, did_at, now_ms, now_us)

  -- Announce.
  call("PUBLISH", part .. "ch:" .. id, message)
  return { "ok", epoch, seq, message_seq, order_key, at, message_id }
end

return together(count, send, 6, 7)
