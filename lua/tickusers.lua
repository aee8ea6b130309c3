-- tickusers.lua does in one users' slot what time demands, in bounded steps:
-- sessions past their deadline are over from now on, and their rooms are to be
-- seen to. It keeps the slot's awake clock.
--
-- Uses     value clock session apart tick
--
-- KEYS[1]  uslot  prefix  of its keys
--
-- ARGV[1]  node
-- ARGV[2]  limit     how much of anything to do in this call
-- ARGV[3]  gone_ttl  ms
--
-- Returns  {"ok", more, next}  as sweep has it. Reservations of sessions that are
--                      over are listed as "quit", with why; switches between slots
--                      that nobody has finished as "switch"
--          {"paused"}  likewise
--          {"fenced"}  the node has been given up
--
-- Publishes  nothing

local uslot, node, limit, gone_ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- Decide.
if dead(uslot, node) then
  return { "fenced" }
end
local now_ms = now()
local awake_ms = pass_time(uslot, now_ms)
if not awake_ms then
  return { "paused" }
end

-- Apply. An entry stays until free finds that nothing is reserved any more.
local index = uslot .. "parked"
local due = call("ZRANGEBYSCORE", index, "-inf", number(awake_ms), "LIMIT", 0, limit)
for _, entry in ipairs(due) do
  local session, user = entry:match("^(.-)%z(.*)$")
  local user_key = key(uslot, "user", user)
  local s = session_record(call("HGET", user_key, "s:" .. session))
  if s and s.deadline ~= "" and tonumber(s.deadline) <= awake_ms then
    call("HDEL", user_key, "s:" .. session)
    forget_outcomes(uslot, 0, session, gone_ttl)
    end_later(uslot, user_key, call("HGETALL", user_key), user, session, "timeout", number(awake_ms))
  end
  local why = call("HGET", user_key, "e:" .. session)
  local fields = call("HGETALL", user_key)
  if why and #rooms_of(fields, session) > 0 then
    list_rooms("quit", fields, user, session, "", why)
    -- Whoever is at it has this long before others try, too.
    call("ZADD", index, number(awake_ms + 2000), entry)
  else
    call("HDEL", user_key, "e:" .. session)
    call("ZREM", index, entry)
  end
end
for _, entry in ipairs(call("ZRANGEBYSCORE", uslot .. "switching", "-inf", number(awake_ms), "LIMIT", 0, limit)) do
  local session, user, id = entry:match("^(.-)%z(.-)%z(.*)$")
  local n, user_key = #LISTED, key(uslot, "user", user)
  list_switches(call("HGETALL", user_key), user, session, id)
  if #LISTED == n then
    call("ZREM", uslot .. "switching", entry)
  end
end
local first = call("ZRANGE", index, 0, 0, "WITHSCORES")
local next_ms = first[2] and math.max(0, tonumber(first[2]) - awake_ms) or -1
return { "ok", #due >= limit and "1" or "0", number(next_ms) }
