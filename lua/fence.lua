-- fence.lua has a reservation count as given back, if the session is not in the
-- room: no entry that shows its ticket takes effect from now on.
--
-- Uses     value clock limits room apart
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user
-- ARGV[3]  session
-- ARGV[4]  ticket
-- ARGV[5]  node      that has the session, "" for none
-- ARGV[6]  gone_ttl  ms
--
-- Returns  {"ok"}       it is void, and may be taken back
--          {"already"}  the session is in the room
--
-- Publishes  nothing

local part, id, user, session, ticket = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local node, gone_ttl = ARGV[5], ARGV[6]

local room = load(part, id, (now()))
local m = room and membership(call("HGET", key(part, "info", id), user))
if m and m.session == session then
  return { "already" }
end
give_back(part, id, user, session, ticket, node, m, gone_ttl)
return { "ok" }
