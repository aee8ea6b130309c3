-- term.lua: which data this is, for the scripts that put data back.

-- read_term gives the term of what is stored, "" for none, and when everybody
-- may act on it, "" if that has come.
local function read_term(term_key)
  return (call("GET", term_key) or ""):match("^([^%z]*)%z?(.*)$")
end

-- read_origin says how the term began: the run_id of its Redis, whether
-- gateways were given time to put back what they knew, and when that was over.
local function read_origin(origin_key)
  return (call("GET", origin_key) or ""):match("^([^%z]*)%z?([^%z]*)%z?(.*)$")
end
