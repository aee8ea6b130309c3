-- bury.lua ends a node's lease when no slot names the node any more.
--
-- Uses     value
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease
-- KEYS[2]  control  prefix  of dead
--
-- ARGV[1]  node
--
-- Returns  {"ok"}
--
-- Publishes  nothing

local nodes, control, node = KEYS[1], KEYS[2], ARGV[1]

-- The first write frees memory, so that a full Redis lets nodes go.
local lease_end = call("ZSCORE", nodes, node) or 0
call("ZREM", nodes, node)
call("ZADD", control .. "dead", "NX", lease_end, node)
return { "ok" }
