-- resolve.lua ends a switch between hash slots: what it had in mind has been done,
-- or given up.
--
-- Uses     value
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  room    that it entered, or was to
-- ARGV[4]  ticket  of the reservation for that
--
-- Returns  {"ok"}
--
-- Publishes  nothing

local user_key, uslot, user, session, id, ticket = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local field = "w:" .. id .. NUL .. session
if (call("HGET", user_key, field) or ""):match("^(%d+)%z") == ticket then
  call("HDEL", user_key, field)
  call("ZREM", uslot .. "switching", session .. NUL .. user .. NUL .. id)
end
return { "ok" }
