-- places.lua lists what a session that leaves all its rooms, or logs out, has
-- reserved: the user's half of leaveAllRoom begins with it, and ends with settle.
--
-- Uses     value request apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  generation
-- ARGV[4]  request_key  "" for none
--
-- Returns  {"ok"}  its reservations are listed as "quit"
--          {"again", room, epoch, seq, …}  the outcome of an earlier call; likewise
--          {"fenced"}   the session has moved to another connection, or has ended
--          {"misused"}  the request_key was another request's
--
-- Publishes  nothing

local user_key, uslot, user, session, generation, request_key = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local before, misused = outcome(uslot, session, request_key, "all", "")
if misused then
  return { "misused" }
end
local reply = { "ok" }
if before then
  reply = { "again" }
  for text in before:gmatch("([^%z]*)%z") do
    reply[#reply + 1] = text
  end
end
local s = session_record(call("HGET", user_key, "s:" .. session))
local mine = s and s.generation == generation
if not before and not mine then
  return { "fenced" }
end
if mine then
  list_rooms("quit", call("HGETALL", user_key), user, session, s.node, "left")
end
return reply
