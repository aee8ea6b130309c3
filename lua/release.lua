-- release.lua ends a node's lease when the node has handed over all it held.
--
-- Uses     value
--
-- KEYS[1]  nodes  zset    node incarnations by the end of their lease
-- KEYS[2]  any    prefix  of any partition
--
-- ARGV[1]  node
-- ARGV[2]  partitions
--
-- Returns  {"ok"}
--          {"held"}  something still names the node; it is left to be claimed

local nodes, any = KEYS[1], KEYS[2]
local node, partitions = ARGV[1], tonumber(ARGV[2])

for p = 0, partitions - 1 do
  if call("EXISTS", key(slot(any, tostring(p)), "node", node),
    key(slot(any, "u" .. p), "nodesessions", node)) > 0 then
    return { "held" }
  end
end
call("ZREM", nodes, node)
return { "ok" }
