-- register.lua gives places to rooms that a count of their partition has found, and in
-- the end takes back those of rooms that it has not.
--
-- Uses     value admission
--
-- KEYS[1]  partition  prefix  of partition 0, see admit
--
-- ARGV[1]  number_of_partition
-- ARGV[2]  number      of the count
-- ARGV[3]  partitions
-- ARGV[4]  last        "1": all rooms have been registered
-- ARGV[5]  limit       of places taken back in this call
-- ARGV[6]  count       of the rooms; two arguments each follow
-- ARGV[7]  room, ticket, …
--
-- Returns  {"ok", more}  "1": it is to be called again
--          {"late"}      the count is over, or there has been a later one
--
-- Publishes  nothing

local part, partition, number_of_count, partitions = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local last, limit, count = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local admissions, admitted = part .. "admissions", key(part, "admitted", partition)

if count_of(part, "count:" .. partition) ~= number_of_count then
  return { "late" }
end
for i = 0, count - 1 do
  local id, ticket = ARGV[7 + 2 * i], ARGV[8 + 2 * i]
  call("ZADD", admitted, "GT", ticket, id)
end
if last ~= "1" then
  return { "ok", "0" }
end
-- What is older has no room, nor will it: its admission is of an earlier count.
local void = call("ZRANGEBYSCORE", admitted, "-inf", "(" .. number_of_count, "LIMIT", 0, limit)
for _, id in ipairs(void) do
  call("ZREM", admitted, id)
  call("ZREM", part .. "making", partition .. NUL .. id)
end
if #void == limit then
  return { "ok", "1" }
end
call("HDEL", admissions, "count:" .. partition)
call("HSET", admissions, partition, number_of_count .. NUL .. TERM)
if #uncounted(part, partitions) == 0 then
  call("HSET", admissions, "ready", TERM)
end
return { "ok", "0" }
