-- held.lua gives the sessions that are stored as a node's, a part at a time.
--
-- Uses     value
--
-- KEYS[1]  uslot  prefix  of a users' slot
--
-- ARGV[1]  node
-- ARGV[2]  cursor  "0" to begin
-- ARGV[3]  count   about how many to give
--
-- Returns  {"ok", cursor, session, user, …}  cursor is "0" at the end

local uslot, node, cursor, count = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

local page = call("SSCAN", key(uslot, "nodesessions", node), cursor, "COUNT", count)
local reply = { "ok", page[1] }
for i, entry in ipairs(page[2]) do
  reply[1 + 2 * i], reply[2 + 2 * i] = entry:match("^(.-)%z(.*)$")
end
return reply
