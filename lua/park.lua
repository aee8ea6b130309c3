-- park.lua notes that a session's socket is closed: its memberships and the
-- session itself last until its deadline. Nothing else is decided here; only
-- the sweep evicts.
--
-- Uses     value clock session
--
-- KEYS[1]  user     hash    the user's sessions and rooms
-- KEYS[2]  uslot    prefix  of the keys in the user's slot
-- KEYS[3]  control  prefix  of clock
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  generation
-- ARGV[4]  left_ms  until the deadline
--
-- Returns  {"ok", deadline}  on the awake clock, in ms
--          {"fenced"}        the session has moved to another connection, is
--                            parked already, or has ended
--
-- Publishes  nothing: the others see no change

local user_key, uslot, control = KEYS[1], KEYS[2], KEYS[3]
local user, session, generation, left_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

-- Decide.
local fields = call("HGETALL", user_key)
local s = session_record(call("HGET", user_key, "s:" .. session))
if not s or s.generation ~= generation or s.deadline ~= "" then
  return { "fenced" }
end

-- Apply.
local deadline = awake(control, (now())) + left_ms
park_rooms(uslot, user_key, fields, user, session, s.node, deadline)
call("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
call("ZADD", uslot .. "parked", deadline, session .. NUL .. user)
s.node, s.deadline = "", number(deadline)
call("HSET", user_key, "s:" .. session, session_value(s))
return { "ok", s.deadline }
