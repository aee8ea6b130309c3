-- tickrooms.lua does in one partition what time demands, in bounded steps: it
-- finishes empty rooms past their deadline, takes out members whose place is past
-- its own, and keeps the partition's awake clock.
--
-- Uses     value clock session apart limits room log attributes depart tick
--
-- KEYS[1]  partition  prefix  of its keys
--
-- ARGV[1]  node
-- ARGV[2]  limit     how much of anything to do in this call
-- ARGV[3]  log_size  events
-- ARGV[4]  log_bytes
-- ARGV[5]  log_ttl   ms
-- ARGV[6]  gone_ttl  ms
--
-- Returns  {"ok", more, next, finished, evicted}  as sweep has it
--          {"paused"}  likewise
--          {"fenced"}  the node has been given up
--
-- Publishes  "d" and "destroyed" for rooms finished, for members evicted what leave does

local part, node, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
local limits = { size = ARGV[3], bytes = ARGV[4], ttl = ARGV[5], gone = ARGV[6] }

-- Decide.
if dead(part, node) then
  return { "fenced" }
end
local now_ms = now()
local awake_ms = pass_time(part, now_ms)
if not awake_ms then
  return { "paused" }
end

-- Apply and announce.
local finished, evicted = 0, 0
local done, first = take(part .. "due", now_ms, limit, function(entry)
  if finish_due(part, entry, now_ms) then
    finished = finished + 1
  end
end)
local budget, next_ms = limit - done, first
done, first = take(part .. "parked", awake_ms, budget, function(entry)
  local session, user, id = entry:match("^(.-)%z(.-)%z(.*)$")
  local room = load(part, id, now_ms)
  local m = room and membership(call("HGET", key(part, "info", id), user))
  if m and m.session == session and m.node == "" then
    depart(part, id, room, "", user, m, "timeout", "", "", limits, now_ms)
    evicted = evicted + 1
  end
end)
budget, next_ms = budget - done, sooner(next_ms, first)
return { "ok", budget <= 0 and "1" or "0", number(next_ms), number(finished), number(evicted) }
