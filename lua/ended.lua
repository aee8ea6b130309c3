-- ended.lua gives the rooms of a partition that have ended and are not counted out
-- yet. It ends those that are past their deadline first.
--
-- Uses     value clock admission room tick
--
-- KEYS[1]  partition  prefix  of its keys
--
-- ARGV[1]  limit  of those that it ends, and that it gives
-- ARGV[2]  count  of those that have been counted out; two arguments each follow
-- ARGV[3]  room, ticket, …
--
-- Returns  {"ok", number, room, ticket, …}  number is that of the count of the partition's
--                         rooms, "0" for none
--
-- Publishes  "d" and "destroyed" for rooms finished

local part, limit, count = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])

local index = part .. "ended"
for i = 0, count - 1 do
  local id, ticket = ARGV[3 + 2 * i], ARGV[4 + 2 * i]
  if tonumber(call("ZSCORE", index, id) or 0) <= tonumber(ticket) then
    call("ZREM", index, id)
  end
end
local now_ms = now()
take(part .. "due", now_ms, limit, function(entry)
  finish_due(part, entry, now_ms)
end)
local reply = { "ok", count_number(part) }
for _, id in ipairs(call("ZRANGEBYSCORE", index, "-inf", "+inf", "LIMIT", 0, limit)) do
  reply[#reply + 1] = id
  reply[#reply + 1] = number(tonumber(call("ZSCORE", index, id)))
end
return reply
