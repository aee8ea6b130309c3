-- lease.lua begins or renews a node's lease, and keeps what the node says of itself.
--
-- Uses     value clock session
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease, awake ms
-- KEYS[2]  control  prefix  of clock, dead and gateway
--
-- ARGV[1]  node
-- ARGV[2]  lease_ttl  ms
-- ARGV[3]  begin      "1" for a new incarnation; else only what exists is renewed
-- ARGV[4]  since      when it was begun, in Redis's time in ms; "" for now
-- ARGV[5]  about      what others are told of the node, opaque; "" for what they have been
--
-- Returns  {"ok", now, since_sweep, node, …}  Redis's time, ms since the last
--                                             sweep, and the nodes alive
--          {"fenced"}  the node has been given up, or its lease is not there

local nodes, control = KEYS[1], KEYS[2]
local node, lease_ttl, begin = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local since, about = ARGV[4], ARGV[5]

-- How many times as long as a lease it is kept what a node has said of itself.
local ABOUT_KEPT = 10

-- The first write frees memory, so that a full Redis does not end the leases.
if dead(control, node) or call("ZREM", nodes, node) == 0 and begin ~= "1" then
  return { "fenced" }
end
local now_ms = now()
local awake_ms = awake(control, now_ms)
call("ZADD", nodes, awake_ms + lease_ttl, node)
if about ~= "" then
  since = since == "" and number(now_ms) or since
  call("SET", key(control, "gateway", node), since .. NUL .. about, "PX", ABOUT_KEPT * lease_ttl)
end
local last = tonumber(call("HGET", control .. "clock", "last") or 0)
local reply = { "ok", number(now_ms), number(math.max(0, now_ms - last)) }
for _, alive in ipairs(call("ZRANGEBYSCORE", nodes, "(" .. number(awake_ms), "+inf", "LIMIT", 0, 500)) do
  reply[#reply + 1] = alive
end
return reply
