-- sweep.lua does what time demands, in bounded steps: it finishes empty rooms
-- past their deadline, evicts sessions past theirs, parks what a dead node
-- held, and keeps the awake clock.
--
-- Uses     value clock session place limits room log attributes depart tick
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease, awake ms
-- KEYS[2]  control  prefix  of clock and dead
--
-- ARGV[1]   node
-- ARGV[2]   partitions
-- ARGV[3]   limit        how much of anything to do in this call
-- ARGV[4]   session_ttl  ms
-- ARGV[5]   log_size     events
-- ARGV[6]   log_bytes
-- ARGV[7]   log_ttl      ms
-- ARGV[8]   gone_ttl     ms
-- ARGV[9]   count        of nodes to claim; two arguments each follow
-- ARGV[10]  node, lease_end, …  as a sweep returned it a lease TTL ago
--
-- Returns  {"ok", more, next, finished, evicted, claimed, lapsed node, lease_end, …}
--                      more is "1" if the limit left something to do; next is ms
--                      until the next deadline, "-1" if there is none
--          {"paused"}  nobody swept for a while, or the clock was set: the gap
--                      is not counted as time, and nothing else was done
--          {"fenced"}  the node has been given up
--
-- Publishes  "d" and "destroyed" for rooms finished, for members evicted what leave does

local nodes, control = KEYS[1], KEYS[2]
local node, partitions, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local session_ttl, claims = tonumber(ARGV[4]), tonumber(ARGV[9])
local limits = { size = ARGV[5], bytes = ARGV[6], ttl = ARGV[7], gone = ARGV[8] }

-- How long an incarnation that was given up is remembered, to be fenced.
local DEAD_KEPT_MS = 24 * 3600 * 1000

-- Decide.
if dead(control, node) then
  return { "fenced" }
end
local now_ms = now()
local awake_ms = pass_time(control, now_ms)
if not awake_ms then
  return { "paused" }
end

-- Apply and announce.
local budget = limit
local finished, evicted, claimed = 0, 0, 0
local next_ms = -1

-- take_due is take within the budget of this call.
local function take_due(index, at_ms, handle)
  local done, first = take(index, at_ms, budget, handle)
  budget, next_ms = budget - done, sooner(next_ms, first)
end

for p = 0, partitions - 1 do
  local part = slot(control, tostring(p))
  take_due(part .. "due", now_ms, function(entry)
    if finish_due(part, entry, now_ms) then
      finished = finished + 1
    end
  end)
  take_due(part .. "parked", awake_ms, function(entry)
    local session, user, id = entry:match("^(.-)%z(.-)%z(.*)$")
    local room = load(part, id, now_ms)
    local m = room and membership(call("HGET", key(part, "info", id), user))
    if m and m.session == session and m.node == "" then
      local user_key = key(slot(part, m.user_slot), "user", user)
      depart(part, id, room, user_key, user, m, "timeout", "", "", limits, now_ms)
      evicted = evicted + 1
    end
  end)
  local uslot = slot(control, "u" .. p)
  take_due(uslot .. "parked", awake_ms, function(entry)
    local session, user = entry:match("^(.-)%z(.*)$")
    local user_key = key(uslot, "user", user)
    local s = session_record(call("HGET", user_key, "s:" .. session))
    -- One that was replaced has no record any more.
    if not s or s.deadline ~= "" and tonumber(s.deadline) <= awake_ms then
      call("HDEL", user_key, "s:" .. session)
      forget_outcomes(uslot, partitions, session, limits.gone)
      drop_void(uslot, user_key, user)
    end
  end)
end

for i = 1, claims do
  local claim, lease_end = ARGV[8 + 2 * i], tonumber(ARGV[9 + 2 * i])
  local now_end = tonumber(call("ZSCORE", nodes, claim) or -1)
  if now_end == lease_end and lease_end < awake_ms then
    call("ZADD", control .. "dead", "NX", lease_end, claim)
    call("ZREMRANGEBYSCORE", control .. "dead", "-inf", number(awake_ms - DEAD_KEPT_MS))
    local deadline = lease_end + session_ttl
    local left = 0
    for p = 0, partitions - 1 do
      local part, uslot = slot(control, tostring(p)), slot(control, "u" .. p)
      local looked, parked = claim_memberships(part, claim, budget, deadline)
      budget, claimed = budget - looked, claimed + parked
      budget = budget - claim_sessions(uslot, claim, budget, deadline)
      left = left + call("EXISTS", key(part, "node", claim), key(uslot, "nodesessions", claim))
    end
    if left == 0 then
      call("ZREM", nodes, claim)
    end
    next_ms = sooner(next_ms, math.max(0, deadline - awake_ms))
  end
end

local reply = { "ok", budget <= 0 and "1" or "0", number(next_ms),
  number(finished), number(evicted), number(claimed) }
local lapsed = call("ZRANGEBYSCORE", nodes, "-inf", "(" .. number(awake_ms), "WITHSCORES", "LIMIT", 0, 100)
for i = 1, #lapsed, 2 do
  reply[#reply + 1] = lapsed[i]
  reply[#reply + 1] = number(tonumber(lapsed[i + 1]))
end
return reply
