-- tally.lua lists the rooms of a partition for a count of them. From the first call
-- on no room begins with an admission of another count.
--
-- Uses     value admission
--
-- KEYS[1]  partition  prefix  of its keys
--
-- ARGV[1]  number  of the count
-- ARGV[2]  cursor  of the last call; "" for the first
-- ARGV[3]  limit   of rooms in this call
--
-- Returns  {"ok", cursor, room, ticket, …}  cursor is "" when all have been listed
--          {"late", above}  there has been a later count, or there has to be one: since
--                    this one began a room has begun or ended in another way than by an
--                    admission, or data was lost. Its number has to be above this, which
--                    the clock of partition 0 may be behind
--
-- Publishes  nothing

local part, count, cursor, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Decide. Whoever is at a count, it is begun here once: what was listed before it was
-- called off is not all that there is.
local counted, clock = count_number(part), part .. "clock"
local last, of_term = (call("HGET", clock, "tallied") or ""):match("^(%d+)%z(.*)$")
local begun = of_term == TERM and tonumber(last) >= tonumber(count)
local term, after = cursor:match("^([^%z]*)%z(.*)$")
if counted ~= count and begun or tonumber(counted) > tonumber(count) or term and term ~= TERM then
  return { "late", number(math.max(tonumber(count), tonumber(counted), begun and tonumber(last) or 0)) }
end

-- Apply.
if counted ~= count then
  local holds = count .. NUL .. TERM
  call("HSET", clock, "counted", holds, "tallied", holds)
end
local ids = call("ZRANGEBYLEX", part .. "rooms", after and "(" .. after or "-", "+", "LIMIT", 0, limit)
local reply = { "ok", #ids == limit and TERM .. NUL .. ids[limit] or "" }
for _, id in ipairs(ids) do
  local f = call("HMGET", key(part, "room", id), "epoch", "admitted")
  if f[1] then -- else it has expired, and its end is still to be announced
    local ticket = number(math.max(tonumber(f[2] or 0), tonumber(count)))
    call("HSET", key(part, "room", id), "admitted", ticket)
    reply[#reply + 1] = id
    reply[#reply + 1] = ticket
  end
end
return reply
