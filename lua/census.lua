-- census.lua begins a count of the rooms of one partition, after which each of them
-- is known to have a place. Until register has ended it nothing is admitted.
--
-- Uses     value clock admission
--
-- KEYS[1]  partition  prefix  of partition 0, see admit
--
-- ARGV[1]  number_of_partition  whose rooms are counted
-- ARGV[2]  above  a number that the count's has to be above
-- ARGV[3]  floor  likewise, of one that is begun: what the partition knows of
--
-- Returns  {"ok", number}     of the count, which others may have begun
--          {"again", number}  of one that has been done
--
-- Publishes  nothing

local part, partition, above, floor = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local admissions = part .. "admissions"

-- Decide.
local done = count_of(part, partition)
if done and tonumber(done) > above then
  return { "again", done }
end
local under_way = count_of(part, "count:" .. partition)
if under_way and tonumber(under_way) > above then
  return { "ok", under_way }
end

-- Apply. The number is above all tickets, so that who shows an older one is told.
local _, now_us = now()
local newest = call("ZREVRANGEBYSCORE", key(part, "admitted", partition), "+inf", "-inf", "WITHSCORES", "LIMIT", 0, 1)
local count = number(math.max(now_us, above + 1, floor + 1, tonumber(newest[2] or 0) + 1))
call("HDEL", admissions, partition, "ready")
call("HSET", admissions, "count:" .. partition, count .. NUL .. TERM)
return { "ok", count }
