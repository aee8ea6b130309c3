-- free.lua takes reservations back that turned out to be void, and have been
-- fenced where the room is. A session that is over and has none left is forgotten.
--
-- Uses     value apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]  user
-- ARGV[2]  count  of the reservations; three arguments each follow. room is "" to
--                 see only whether the session can be forgotten
-- ARGV[3]  session, room, ticket, …
--
-- Returns  {"ok"}
--
-- Publishes  nothing

local user_key, uslot, user, count = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

for i = 0, count - 1 do
  local session, id, ticket = ARGV[3 + 3 * i], ARGV[4 + 3 * i], ARGV[5 + 3 * i]
  unreserve(user_key, session, id, ticket)
  if call("HEXISTS", user_key, "e:" .. session) == 1 and #rooms_of(call("HGETALL", user_key), session) == 0 then
    call("HDEL", user_key, "e:" .. session)
    call("ZREM", uslot .. "parked", session .. NUL .. user)
  end
end
return { "ok" }
