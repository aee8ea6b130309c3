-- guard.lua: no script acts on other data than its gateway knows. This stands
-- before every script but those whose header says "Unguarded".

-- TERM, the last argument of a call, names the data that the gateway has put
-- back what it knew into; the last key holds the term of what is stored. They
-- differ if data was lost or rolled back, and until all have had time to put
-- theirs back.
local TERM = ARGV[#ARGV]
if (redis.call("GET", KEYS[#KEYS]) or "") ~= TERM then
  return { "term" }
end
