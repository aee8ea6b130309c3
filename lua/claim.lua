-- claim.lua parks what a node that was given up holds in one slot, in bounded
-- steps. Any number of callers share the work, with the same result.
--
-- Uses     value clock session tick
--
-- KEYS[1]  prefix  of a partition or of a users' slot
--
-- ARGV[1]  node
-- ARGV[2]  claimed_node
-- ARGV[3]  ago          how many ms ago its lease ended
-- ARGV[4]  session_ttl  ms
-- ARGV[5]  limit        how much to park in this call
--
-- Returns  {"ok", more, next, claimed}  more is "1" if something is left; next is ms until
--                      what is parked is due; claimed counts memberships
--          {"fenced"}  the node itself has been given up
--
-- Publishes  nothing

local prefix, node, claimed_node = KEYS[1], ARGV[1], ARGV[2]
local ago, session_ttl, budget = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- How long an incarnation that was given up is remembered, to be fenced.
local DEAD_KEPT_MS = 24 * 3600 * 1000

if dead(prefix, node) then
  return { "fenced" }
end
local awake_ms = awake(prefix, (now()))
call("ZREMRANGEBYSCORE", prefix .. "dead", "-inf", number(awake_ms - DEAD_KEPT_MS))
call("ZADD", prefix .. "dead", "NX", number(awake_ms - ago), claimed_node)
local deadline = tonumber(call("ZSCORE", prefix .. "dead", claimed_node)) + session_ttl

local looked, claimed = claim_memberships(prefix, claimed_node, budget, deadline)
claim_sessions(prefix, claimed_node, budget - looked, deadline)
local left = call("EXISTS", key(prefix, "node", claimed_node), key(prefix, "nodesessions", claimed_node))
return { "ok", left > 0 and "1" or "0", number(math.max(0, deadline - awake_ms)), number(claimed) }
