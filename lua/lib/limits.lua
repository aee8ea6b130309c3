-- limits.lua: how many rooms there may be, for the scripts that begin and end their
-- lives. The count comes from the lists of rooms. Where hash slots lie apart,
-- lib/admission.lua stands here in place of this file.

-- rooms_full says whether as many rooms exist as may, over all partitions and
-- without those past their deadline.
local function rooms_full(part, partitions, max_rooms, now_ms)
  local n = 0
  for p = 0, max_rooms > 0 and partitions - 1 or -1 do
    local other = slot(part, tostring(p))
    n = n + call("ZCARD", other .. "rooms") - call("ZCOUNT", other .. "due", "-inf", number(now_ms))
  end
  return max_rooms > 0 and n >= max_rooms
end

-- unadmitted says why a room may not begin without being admitted elsewhere: it may.
local function unadmitted()
end

local function begin_admission()
end

-- admission_of is for what has to be given back when a room ends: there is nothing.
local function admission_of()
end

local function end_admission()
end

local function uncount()
end
