-- clock.lua: Redis's clock, and awake time: Redis's clock without the time in
-- which nobody could have served. Leases and parked sessions run on the latter,
-- so that an outage or a step of the clock costs nobody their place.

-- A silence of the sweep longer than this, or a step back, is not counted.
local GAP_MS = 5000

-- now gives Redis's time in ms, and in µs.
local function now()
  local t = call("TIME")
  local us = t[1] * 1000000 + t[2]
  return (us - us % 1000) / 1000, us
end

-- late says whether a call that was valid until a time, "" for ever, comes
-- after it: whoever sent it has long given it up.
local function late(now_ms, valid_until)
  return valid_until ~= "" and now_ms > tonumber(valid_until)
end

-- awake gives the awake time in ms. A gap that the sweep has not yet added to
-- paused is left out here already.
local function awake(control, now_ms)
  local c = call("HMGET", control .. "clock", "last", "paused")
  local last, paused = tonumber(c[1] or now_ms), tonumber(c[2] or 0)
  local gap = now_ms - last
  if gap > GAP_MS or gap < 0 then
    return last - paused
  end
  return now_ms - paused
end
