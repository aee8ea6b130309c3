-- vacate.lua has a node that ends hold nothing more in one slot.
--
-- Uses     value clock
--
-- KEYS[1]  prefix  of a partition or of a users' slot
--
-- ARGV[1]  node
--
-- Returns  {"ok"}
--          {"held"}  something still names the node; it is left to be claimed
--
-- Publishes  nothing

local prefix, node = KEYS[1], ARGV[1]

if call("EXISTS", key(prefix, "node", node), key(prefix, "nodesessions", node)) > 0 then
  return { "held" }
end
-- What it sent and is still on its way must not begin anything. The first write
-- frees memory, so that a full Redis lets nodes go.
local awake_ms = awake(prefix, (now()))
call("ZREM", prefix .. "dead", "")
call("ZADD", prefix .. "dead", "NX", awake_ms, node)
return { "ok" }
