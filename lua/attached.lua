-- attached.lua says under which generation a session is on a node.
--
-- Uses     value
--
-- KEYS[1]  uslot  prefix  of the user's slot
--
-- ARGV[1]  node
-- ARGV[2]  user
-- ARGV[3]  session
--
-- Returns  {"ok", generation}  "" if it is not there

local uslot, node, user, session = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

local s = session_record(call("HGET", key(uslot, "user", user), "s:" .. session))
return { "ok", s and s.node == node and s.generation or "" }
