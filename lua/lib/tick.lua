-- tick.lua: what a sweep of one slot is made of.

-- pass_time notes that somebody sweeps, and gives the awake time; or nil for a gap,
-- which is not counted. The first write frees memory, so that a full Redis lets
-- people go.
local function pass_time(control, now_ms)
  local c = call("HMGET", control .. "clock", "last", "paused")
  local last, paused = tonumber(c[1] or now_ms), tonumber(c[2] or 0)
  local gap = now_ms - last
  call("HDEL", control .. "clock", "last")
  call("HSET", control .. "clock", "last", number(now_ms), "paused", number(paused))
  if gap > GAP_MS or gap < 0 then
    call("HSET", control .. "clock", "paused", number(paused + gap))
    return nil
  end
  return now_ms - paused
end

-- sooner gives the sooner of two deadlines in ms, of which -1 is none.
local function sooner(a, b)
  if a < 0 or b >= 0 and b < a then
    return b
  end
  return a
end

-- take calls handle for up to limit entries of a deadline index that are due. It
-- gives how many those were, and in how many ms the first of the others is.
local function take(index, at_ms, limit, handle)
  local due = {}
  if limit > 0 then
    due = call("ZRANGEBYSCORE", index, "-inf", number(at_ms), "LIMIT", 0, limit)
    for _, entry in ipairs(due) do
      handle(entry)
      call("ZREM", index, entry)
    end
  end
  local first = call("ZRANGE", index, 0, 0, "WITHSCORES")
  return #due, first[2] and math.max(0, tonumber(first[2]) - at_ms) or -1
end

-- finish_due ends a room that is due, if it still is in that life and nobody has
-- entered it; and says whether a life has ended.
local function finish_due(part, entry, now_ms)
  local id, epoch = entry:match("^(.-)%z(.*)$")
  local room = call("HGET", key(part, "room", id), "epoch")
  if room == epoch then
    -- load finishes it; one that was entered again has no deadline.
    return not load(part, id, now_ms)
  end
  -- Its keys have expired by themselves; its end is still announced once.
  if not room then
    call("ZREM", part .. "rooms", id)
  end
  uncount(part)
  announce_end(part, id, epoch, "emptied")
  return true
end

-- claim_memberships parks, of a partition, up to limit entries of what a node that was given
-- up holds. It gives how many it has looked at, and how many of them it has parked.
local function claim_memberships(part, node, limit, deadline)
  local held, parked = key(part, "node", node), 0
  local budget = math.max(0, limit)
  local entries = call("SRANDMEMBER", held, budget)
  for _, entry in ipairs(entries) do
    local user, id = entry:match("^(.-)%z(.*)$")
    local m = membership(call("HGET", key(part, "info", id), user))
    if m and m.node == node then
      park_membership(part, id, user, m, deadline)
      parked = parked + 1
    else
      call("SREM", held, entry)
    end
  end
  return #entries, parked
end

-- claim_sessions is the same for the sessions in a users' slot. It gives how many it has
-- looked at.
local function claim_sessions(uslot, node, limit, deadline)
  local held = key(uslot, "nodesessions", node)
  local budget = math.max(0, limit)
  local entries = call("SRANDMEMBER", held, budget)
  for _, entry in ipairs(entries) do
    local session, user = entry:match("^(.-)%z(.*)$")
    local user_key = key(uslot, "user", user)
    local s = session_record(call("HGET", user_key, "s:" .. session))
    if s and s.node == node then
      s.node, s.deadline = "", number(deadline)
      call("HSET", user_key, "s:" .. session, session_value(s))
      call("ZADD", uslot .. "parked", deadline, entry)
    end
    call("SREM", held, entry)
  end
  return #entries
end
