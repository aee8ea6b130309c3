-- claim.lua parks what a node that was given up holds in one slot, in bounded
-- steps. Any number of callers share the work, with the same result.
--
-- Uses     value clock session
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

local held, sessions = key(prefix, "node", claimed_node), key(prefix, "nodesessions", claimed_node)
local entries, claimed = call("SRANDMEMBER", held, budget), 0
budget = budget - #entries
for _, entry in ipairs(entries) do
  local user, id = entry:match("^(.-)%z(.*)$")
  local m = membership(call("HGET", key(prefix, "info", id), user))
  if m and m.node == claimed_node then
    park_membership(prefix, id, user, m, deadline)
    claimed = claimed + 1
  else
    call("SREM", held, entry)
  end
end
if budget > 0 then
  for _, entry in ipairs(call("SRANDMEMBER", sessions, budget)) do
    local session, user = entry:match("^(.-)%z(.*)$")
    local user_key = key(prefix, "user", user)
    local s = session_record(call("HGET", user_key, "s:" .. session))
    if s and s.node == claimed_node then
      s.node, s.deadline = "", number(deadline)
      call("HSET", user_key, "s:" .. session, session_value(s))
      call("ZADD", prefix .. "parked", deadline, entry)
    end
    call("SREM", sessions, entry)
  end
end
return { "ok", call("EXISTS", held, sessions) > 0 and "1" or "0", number(math.max(0, deadline - awake_ms)), number(claimed) }
