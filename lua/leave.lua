-- leave.lua takes a session out of one room: leaveRoom (rows 21–23).
--
-- Uses     value clock place limits room log request attributes depart
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  user       hash    the user's sessions and rooms
--
-- ARGV[1]   room
-- ARGV[2]   user
-- ARGV[3]   session
-- ARGV[4]   generation
-- ARGV[5]   request_key  "" for none
-- ARGV[6]   did_ttl      ms
-- ARGV[7]   log_size     events
-- ARGV[8]   log_bytes
-- ARGV[9]   log_ttl      ms
-- ARGV[10]  gone_ttl     ms
--
-- Returns  {"ok", epoch, seq}     of the departure
--          {"again", epoch, seq}  the same, of an earlier call under this request_key,
--                                 unless the session was put back since
--          {"noroom"}
--          {"notin"}              the session is not in the room
--          {"misused"}            the request_key was another request's
--          {"fenced"}             the session has moved to another connection, or is parked
--
-- Publishes  "l", "a" if attributes go with the user; "d" and "destroyed" if that was the last member and the
-- room has no delay.

local part, user_key = KEYS[1], KEYS[2]
local id, user, session, generation, request_key = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local did_ttl, limits = ARGV[6], { size = ARGV[7], bytes = ARGV[8], ttl = ARGV[9], gone = ARGV[10] }

-- Decide.
local before, misused, did_at = outcome(part, session, request_key, "leave", id)
if misused then
  return { "misused" }
end
if before then -- seldom
  local epoch, seq = before:match("^(%d+)%z(%d+)")
  if not put_back(part, id, user, session, epoch, seq) then
    return { "again", epoch, seq }
  end
end
local now_ms, now_us = now()
local head = call("HMGET", part .. "room:" .. id,
  "epoch", "seq", "term", "deadline", "delay", "bequests", "leftat", "leftseq")
-- Here act

-- Apply and announce.
local room = {
  epoch = head[1], seq = head[2] + 0, delay = head[5], bequests = head[6], left_at = head[7], left_seq = head[8],
}
local node, user_slot, data = info:match("^([^%z]*)%z([^%z]*)%z[^%z]*%z(.*)$", #mine + 1)
local m = { session = session, generation = generation, node = node, user_slot = user_slot, data = data }
local seq = depart(part, id, room, user_key, user, m, "left", "", request_key, limits, now_ms)
remember(part, session, request_key, "leave", id, room.epoch .. NUL .. seq, did_ttl, did_at, now_ms, now_us)
return { "ok", room.epoch, seq }
