-- quit.lua takes a session out of a room that its user's slot has decided about:
-- the session is over, or leaves all its rooms.
--
-- Uses     value clock apart limits room log request attributes depart
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]   room
-- ARGV[2]   user
-- ARGV[3]   session
-- ARGV[4]   ticket       of the reservation; a membership of a later one stays
-- ARGV[5]   node         that has the session, "" for none
-- ARGV[6]   reason       as the room's members and the session are told
-- ARGV[7]   request_key  "" for none
-- ARGV[8]   did_ttl      ms
-- ARGV[9]   log_size     events
-- ARGV[10]  log_bytes
-- ARGV[11]  log_ttl      ms
-- ARGV[12]  gone_ttl     ms
--
-- Returns  {"ok", epoch, seq}     of the departure
--          {"again", epoch, seq, in}  the same, of an earlier call under this request_key,
--                                 unless the session was put back since; in is "1" if it
--                                 has entered again
--          {"notin"}              it was not there under this ticket, which has been
--                                 given back
--          {"misused"}            the request_key was another request's
--
-- What has been given back is listed as "free".
--
-- Publishes  what leave does

local part, id, user, session, ticket = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local node, reason, request_key = ARGV[5], ARGV[6], ARGV[7]
local did_ttl, limits = ARGV[8], { size = ARGV[9], bytes = ARGV[10], ttl = ARGV[11], gone = ARGV[12] }

-- Decide.
local before, misused, did_at = outcome(part, session, request_key, "quit", id)
if misused then
  return { "misused" }
end
if before then
  local epoch, seq = before:match("^(%d+)%z(%d+)")
  if not put_back(part, id, user, session, epoch, seq) then
    local m = membership(call("HGET", key(part, "info", id), user))
    if m and m.session == session then
      return { "again", epoch, seq, "1" }
    end
    give_back(part, id, user, session, ticket, node, m, limits.gone)
    list("free", user, session, id, ticket, node, "")
    return { "again", epoch, seq, "0" }
  end
end
local now_ms, now_us = now()
local room = load(part, id, now_ms)
local m = room and membership(call("HGET", key(part, "info", id), user))
if m and m.session == session and tonumber(ticket_of(m.user_slot)) > tonumber(ticket) then
  return { "notin" }
end
if not m or m.session ~= session then
  give_back(part, id, user, session, ticket, node, m, limits.gone)
  list("free", user, session, id, ticket, node, "")
  return { "notin" }
end

-- Apply and announce.
local seq = depart(part, id, room, "", user, m, reason, "", "", limits, now_ms)
remember(part, session, request_key, "quit", id, room.epoch .. NUL .. seq, did_ttl, did_at, now_ms, now_us)
return { "ok", room.epoch, seq }
