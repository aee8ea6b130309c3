-- greet.lua holds every gateway of a deployment to one number of partitions:
-- the first to come writes it down.
--
-- KEYS[1]  partitions  string  how many there are
--
-- ARGV[1]  partitions
--
-- Returns  {"ok"}
--          {"partitions", n}  the deployment has n, not the number given

local stored, wanted = KEYS[1], ARGV[1]

-- A full Redis refuses a SET even if it would change nothing.
local n = redis.call("GET", stored)
if not n then
  redis.call("SET", stored, wanted)
  n = wanted
end
if n ~= wanted then
  return { "partitions", n }
end
return { "ok" }
