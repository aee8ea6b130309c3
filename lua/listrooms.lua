-- listrooms.lua lists rooms of a partition by their IDs, for backends.
--
-- Uses     value clock
--
-- KEYS[1]  partition  prefix
--
-- ARGV[1]  search  what their IDs begin with; "" for all
-- ARGV[2]  after   only those behind this one, which begins so, too; "" for the first
-- ARGV[3]  count   at most
--
-- Returns  {"ok", now, exist, matching, room, …}  Redis's time in ms; how many rooms
--                     exist; how many of the list begin so: it has some that are
--                     over and have not been met since, and so may what follows

local part, search, after, count = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])

local now_ms = now()
local rooms = part .. "rooms"
-- No byte of an ID is as high as the last one.
local first, last = search == "" and "-" or "[" .. search, search == "" and "+" or "(" .. search .. "\255"
local exist = call("ZCARD", rooms) - call("ZCOUNT", part .. "due", "-inf", number(now_ms))
local reply = { "ok", number(now_ms), number(exist), number(call("ZLEXCOUNT", rooms, first, last)) }
if after ~= "" then
  first = "(" .. after
end
if count > 0 then
  for i, id in ipairs(call("ZRANGEBYLEX", rooms, first, last, "LIMIT", 0, count)) do
    reply[4 + i] = id
  end
end
return reply
