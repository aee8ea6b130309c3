-- sweep.lua does what time demands, in bounded steps: it finishes empty rooms
-- past their deadline, evicts sessions past theirs, parks what a dead node
-- held, and keeps the awake clock.
--
-- Uses     value clock room log attributes depart session
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
local c = call("HMGET", control .. "clock", "last", "paused")
local last, paused = tonumber(c[1] or now_ms), tonumber(c[2] or 0)
local gap = now_ms - last
-- The first write frees memory, so that a full Redis lets people go.
call("HDEL", control .. "clock", "last")
call("HSET", control .. "clock", "last", number(now_ms), "paused", number(paused))
if gap > GAP_MS or gap < 0 then
  call("HSET", control .. "clock", "paused", number(paused + gap))
  return { "paused" }
end
local awake_ms = now_ms - paused

-- Apply and announce.
local budget = limit
local finished, evicted, claimed = 0, 0, 0
local next_ms = -1
local function deadline_in(ms)
  if next_ms < 0 or ms < next_ms then
    next_ms = math.max(0, ms)
  end
end

-- take calls handle for the entries of a deadline index that are due, and
-- notes when the first of the others will be.
local function take(index, at_ms, handle)
  if budget > 0 then
    local due = call("ZRANGEBYSCORE", index, "-inf", number(at_ms), "LIMIT", 0, budget)
    budget = budget - #due
    for _, entry in ipairs(due) do
      handle(entry)
      call("ZREM", index, entry)
    end
  end
  local first = call("ZRANGE", index, 0, 0, "WITHSCORES")
  if first[2] then
    deadline_in(tonumber(first[2]) - at_ms)
  end
end

for p = 0, partitions - 1 do
  local part = slot(control, tostring(p))
  take(part .. "due", now_ms, function(entry)
    local id, epoch = entry:match("^(.-)%z(.*)$")
    local room = call("HGET", key(part, "room", id), "epoch")
    if room == epoch then
      -- load finishes it; one that was entered again has no deadline.
      if not load(part, id, now_ms) then
        finished = finished + 1
      end
    else
      -- Its keys have expired by themselves; its end is still announced once.
      if not room then
        call("ZREM", part .. "rooms", id)
      end
      announce_end(part, id, epoch, "emptied")
      finished = finished + 1
    end
  end)
  take(part .. "parked", awake_ms, function(entry)
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
  take(uslot .. "parked", awake_ms, function(entry)
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
      local held, sessions = key(part, "node", claim), key(uslot, "nodesessions", claim)
      if budget > 0 then
        local entries = call("SRANDMEMBER", held, budget)
        budget = budget - #entries
        for _, entry in ipairs(entries) do
          local user, id = entry:match("^(.-)%z(.*)$")
          local m = membership(call("HGET", key(part, "info", id), user))
          if m and m.node == claim then
            park_membership(part, id, user, m, deadline)
            claimed = claimed + 1
          else
            call("SREM", held, entry)
          end
        end
      end
      if budget > 0 then
        local entries = call("SRANDMEMBER", sessions, budget)
        budget = budget - #entries
        for _, entry in ipairs(entries) do
          local session, user = entry:match("^(.-)%z(.*)$")
          local user_key = key(uslot, "user", user)
          local s = session_record(call("HGET", user_key, "s:" .. session))
          if s and s.node == claim then
            s.node, s.deadline = "", number(deadline)
            call("HSET", user_key, "s:" .. session, session_value(s))
            call("ZADD", uslot .. "parked", deadline, entry)
          end
          call("SREM", sessions, entry)
        end
      end
      left = left + call("EXISTS", held, sessions)
    end
    if left == 0 then
      call("ZREM", nodes, claim)
    end
    deadline_in(deadline - awake_ms)
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
