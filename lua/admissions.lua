-- admissions.lua says what is to be seen to of the places that rooms have: see admit.
--
-- Uses     value clock admission
--
-- KEYS[1]  partition  prefix  of partition 0
--
-- ARGV[1]  partitions
-- ARGV[2]  finish_ms  how long a room may be in the making
-- ARGV[3]  limit      of those that are given
--
-- Returns  {"ok", number, …, room, ticket, …}  for each partition the number of the count of
--                      its rooms, "0" for none; then the rooms too long in the making
--
-- Publishes  nothing

local part, partitions, finish_ms, limit = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

local reply = { "ok" }
for p = 0, partitions - 1 do
  reply[#reply + 1] = count_of(part, tostring(p)) or "0"
end
local before_ms = awake(part, (now())) - finish_ms
for _, entry in ipairs(call("ZRANGEBYSCORE", part .. "making", "-inf", number(before_ms), "LIMIT", 0, limit)) do
  local partition, id = entry:match("^(%d+)%z(.*)$")
  reply[#reply + 1] = id
  reply[#reply + 1] = number(tonumber(call("ZSCORE", key(part, "admitted", partition), id) or 0))
end
return reply
