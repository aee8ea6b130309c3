-- settle.lua ends what places began: it takes the reservations back of the rooms
-- left, notes the outcome, and ends the session if it is to.
--
-- Uses     value clock request apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]   user
-- ARGV[2]   session
-- ARGV[3]   generation
-- ARGV[4]   request_key  "" for none
-- ARGV[5]   end_session  "1" to end the session, too
-- ARGV[6]   did_ttl      ms
-- ARGV[7]   gone_ttl     ms
-- ARGV[8]   left         the outcome: room, epoch and seq of each departure, each with
--                       NUL behind it
-- ARGV[9]   count        of the reservations; two arguments each follow
-- ARGV[10]  room, ticket, …
--
-- Returns  {"ok"}       what has been reserved meanwhile is listed as "quit": the session
--                       is not ended then
--          {"fenced"}   the session has moved to another connection, or has ended
--
-- Publishes  nothing

local user_key, uslot, user, session, generation, request_key = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local end_session, did_ttl, gone_ttl, left, count = ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])

-- The first write frees memory, so that a full Redis does it.
for i = 0, count - 1 do
  unreserve(user_key, session, ARGV[10 + 2 * i], ARGV[11 + 2 * i])
end
local s = session_record(call("HGET", user_key, "s:" .. session))
if not s or s.generation ~= generation then
  return { "fenced" }
end
if end_session == "1" then
  list_rooms("quit", call("HGETALL", user_key), user, session, s.node, "left")
  if #LISTED > 0 then
    return { "ok" }
  end
  call("HDEL", user_key, "s:" .. session)
  call("ZREM", uslot .. "parked", session .. NUL .. user)
  call("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
end
local _, _, did_at = outcome(uslot, session, request_key, "all", "")
call("HDEL", key(uslot, "did", session), request_key)
remember(uslot, session, request_key, "all", "", left, did_ttl, did_at, now())
if end_session == "1" then
  forget_outcomes(uslot, 0, session, gone_ttl)
end
return { "ok" }
