-- holds.lua says whether a session may leave a room, for a switch to one in another
-- hash slot.
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user
-- ARGV[3]  session
-- ARGV[4]  generation
--
-- Returns  {"ok"}
--          {"noroom"}
--          {"notin"}   the session is not in the room
--          {"fenced"}  the session has moved to another connection, or is parked
--
-- Publishes  nothing

local part, id, user, session, generation = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local now_ms = now()
local head = call("HMGET", part .. "room:" .. id, "epoch", "seq", "term", "deadline")
-- Here act
return { "ok" }
