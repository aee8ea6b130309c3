-- takeover.lua moves a session to a new connection, on this node or another: the
-- user's half of resume. Its rooms are in other slots, and retake takes them.
-- The node of an earlier connection is to be told to close it: that is listed.
--
-- Uses     value clock session apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  node
-- ARGV[4]  valid_until  Redis's time in ms, "" for ever
--
-- Returns  {"ok", generation, slow, over, …}  as resume; over is "" or, as gone has
--                              it, why the session is over. Its reservations are listed
--                              as "held"
--          {"unknown", "", "0", over}  it does not go on
--          {"fenced"}  the node has been given up
--          {"late"}    the call came after valid_until
--
-- Publishes  nothing

local user_key, uslot = KEYS[1], KEYS[2]
local user, session, node = ARGV[1], ARGV[2], ARGV[3]

-- Decide.
if dead(uslot, node) then
  return { "fenced" }
end
local now_ms = now()
if late(now_ms, ARGV[4]) then
  return { "late" }
end
local fields = call("HGETALL", user_key)
local s = session_record(call("HGET", user_key, "s:" .. session))
local over = call("HGET", key(uslot, "gone", session), "") or ""
if not s or s.deadline ~= "" and tonumber(s.deadline) <= awake(uslot, now_ms) then
  return { "unknown", "", "0", over }
end

-- Apply and announce.
local generation = number(math.max(tonumber(s.generation) + 1, now_ms))
list_rooms("held", fields, user, session, s.node, generation)
if s.node ~= "" then
  call("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
  order(uslot, user, s.node, "4510", session, generation)
end
if s.deadline ~= "" then
  call("ZREM", uslot .. "parked", session .. NUL .. user)
end
s.generation, s.node, s.deadline = generation, node, ""
call("HSET", user_key, "s:" .. session, session_value(s))
call("SADD", key(uslot, "nodesessions", node), session .. NUL .. user)
return { "ok", generation, tostring(call("SCARD", key(uslot, "slow", session))), over }
