-- condemn.lua gives nodes up whose lease has lapsed, in the slot of leases: from
-- now on it cannot be renewed. What they hold is claimed slot by slot.
--
-- Uses     value clock session
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease, awake ms
-- KEYS[2]  control  prefix  of clock and dead
--
-- ARGV[1]  node
-- ARGV[2]  count  of nodes to give up; two arguments each follow
-- ARGV[3]  node, lease_end, …  as an earlier call returned it a lease TTL ago
--
-- Returns  {"ok", condemned, node, ago, …, lapsed node, lease_end, …}  condemned is how
--                      many have been; ago is how many ms their lease ended before now
--          {"fenced"}  the node itself has been given up
--
-- Publishes  nothing

local nodes, control, node, count = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

if dead(control, node) then
  return { "fenced" }
end
local awake_ms = awake(control, (now()))
local reply = { "ok", "0" }
for i = 0, count - 1 do
  local claim, lease_end = ARGV[3 + 2 * i], tonumber(ARGV[4 + 2 * i])
  local now_end = tonumber(call("ZSCORE", nodes, claim) or -1)
  if now_end == lease_end and lease_end < awake_ms then
    call("ZADD", control .. "dead", "NX", lease_end, claim)
    reply[#reply + 1] = claim
    reply[#reply + 1] = number(awake_ms - lease_end)
  end
end
reply[2] = tostring((#reply - 2) / 2)
local lapsed = call("ZRANGEBYSCORE", nodes, "-inf", "(" .. number(awake_ms), "WITHSCORES", "LIMIT", 0, 100)
for i = 1, #lapsed, 2 do
  reply[#reply + 1] = lapsed[i]
  reply[#reply + 1] = number(tonumber(lapsed[i + 1]))
end
return reply
