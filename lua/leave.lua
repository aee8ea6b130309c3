-- leave.lua takes a session out of one room: leaveRoom (rows 21–23).
-- Several calls may go together.
--
-- Uses     value clock together place limits room log request attributes depart
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  count      of the departures
-- ARGV[2]  did_ttl    ms
-- ARGV[3]  log_size   events
-- ARGV[4]  log_bytes
-- ARGV[5]  log_ttl    ms
-- ARGV[6]  gone_ttl   ms
-- ARGV[7]  room, user, user_key, session, generation, request_key, …
--            user_key is the user's hash, of sessions and rooms
--            request_key is "" for none
--
-- Returns  {"ok", epoch, seq}     of the departure
--          {"again", epoch, seq}  the same, of an earlier call under this request_key,
--                                 unless the session was put back since
--          {"noroom"}
--          {"notin"}              the session is not in the room
--          {"misused"}            the request_key was another request's
--          {"fenced"}             the session has moved to another connection, or is parked
--          Of several departures: a list of these.
--
-- Publishes  "l", "a" if attributes go with the user; "d" and "destroyed" if that was the last member and the
-- room has no delay.

local part, count, did_ttl = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local limits = { size = ARGV[3], bytes = ARGV[4], ttl = ARGV[5], gone = ARGV[6] }
local now_ms, now_us = now()

-- leave gives what is answered for one departure.
local function leave(id, user, user_key, session, generation, request_key)
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
end

return together(count, leave, 7, 6)
