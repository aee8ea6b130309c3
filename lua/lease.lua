-- lease.lua begins or renews a node's lease.
--
-- Uses     value clock session
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease, awake ms
-- KEYS[2]  control  prefix  of clock and dead
--
-- ARGV[1]  node
-- ARGV[2]  lease_ttl  ms
-- ARGV[3]  begin      "1" for a new incarnation; else only what exists is renewed
--
-- Returns  {"ok", now, since_sweep, node, …}  Redis's time, ms since the last
--                                             sweep, and the nodes alive
--          {"fenced"}  the node has been given up, or its lease is not there

local nodes, control = KEYS[1], KEYS[2]
local node, lease_ttl, begin = ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- The first write frees memory, so that a full Redis does not end the leases.
if dead(control, node) or call("ZREM", nodes, node) == 0 and begin ~= "1" then
  return { "fenced" }
end
local now_ms = now()
local awake_ms = awake(control, now_ms)
call("ZADD", nodes, awake_ms + lease_ttl, node)
local last = tonumber(call("HGET", control .. "clock", "last") or 0)
local reply = { "ok", number(now_ms), number(math.max(0, now_ms - last)) }
for _, alive in ipairs(call("ZRANGEBYSCORE", nodes, "(" .. number(awake_ms), "+inf", "LIMIT", 0, 500)) do
  reply[#reply + 1] = alive
end
return reply
