-- release.lua ends a node's lease when the node has handed over all it held.
--
-- Uses     value
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease
-- KEYS[2]  control  prefix  of dead, and of a partition
--
-- ARGV[1]  node
-- ARGV[2]  partitions
--
-- Returns  {"ok"}
--          {"held"}  something still names the node; it is left to be claimed

local nodes, control = KEYS[1], KEYS[2]
local node, partitions = ARGV[1], tonumber(ARGV[2])

for p = 0, partitions - 1 do
  if call("EXISTS", key(slot(control, tostring(p)), "node", node),
    key(slot(control, "u" .. p), "nodesessions", node)) > 0 then
    return { "held" }
  end
end
-- What it sent and is still on its way must not begin anything. The first write
-- frees memory, so that a full Redis lets nodes go.
local lease_end = call("ZSCORE", nodes, node) or 0
call("ZREM", nodes, node)
call("ZADD", control .. "dead", "NX", lease_end, node)
return { "ok" }
