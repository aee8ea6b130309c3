-- limits.lua: counts that a limit is checked against. They come from the sets
-- themselves.

-- rooms_exist counts the rooms of all partitions, without those past their
-- deadline.
local function rooms_exist(part, partitions, now_ms)
  local n = 0
  for p = 0, partitions - 1 do
    local other = slot(part, tostring(p))
    n = n + call("ZCARD", other .. "rooms") - call("ZCOUNT", other .. "due", "-inf", number(now_ms))
  end
  return n
end
