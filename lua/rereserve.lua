-- rereserve.lua has a user's hash know of a membership again that has lost its
-- reservation, for an audit.
--
-- Uses     value clock apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  room
-- ARGV[4]  number_of_partition  of the room
-- ARGV[5]  ticket  of the membership
--
-- Returns  {"ok"}
--
-- Publishes  nothing

local user_key, uslot = KEYS[1], KEYS[2]
local user, session, id, partition, ticket = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if tonumber(reservation(user_key, session, id) or 0) < tonumber(ticket) or ticket == "0" then
  call("HSET", user_key, "r:" .. id .. NUL .. session, partition .. NUL .. ticket)
end
-- Of a session that is not there any more the sweep sees to what it left.
if call("HEXISTS", user_key, "s:" .. session) == 0 and call("HEXISTS", user_key, "e:" .. session) == 0 then
  call("HSET", user_key, "e:" .. session, "timeout")
  call("ZADD", uslot .. "parked", number(awake(uslot, (now()))), session .. NUL .. user)
end
return { "ok" }
