-- members.lua gives one page of a room's members in the order of their entry.
--
-- Uses     value clock room query
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user     who asks
-- ARGV[3]  session
-- ARGV[4]  cursor   members that entered after this seq; "0" for the first page
-- ARGV[5]  count    at most
--
-- Returns  {"ok", epoch, seq, next, data, …}  next is the cursor of the next
--                                             page, "" if this was the last
--          {"noroom"}
--          {"notin"}  the session is not in the room

local part = KEYS[1]
local id, user, session, cursor, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local now_ms = now()
local room, refused = may_ask(part, id, user, session, now_ms)
if not room then
  return refused
end
local page = call("ZRANGEBYSCORE", key(part, "members", id), "(" .. cursor, "+inf", "WITHSCORES", "LIMIT", 0, count + 1)
local users, last = {}, ""
for i = 1, math.min(#page, 2 * count), 2 do
  users[#users + 1] = page[i]
  last = number(tonumber(page[i + 1]))
end
local reply = { "ok", room.epoch, number(room.seq), #page > 2 * count and last or "" }
if #users > 0 then
  for i, value in ipairs(call("HMGET", key(part, "info", id), unpack(users))) do
    reply[4 + i] = membership(value).data
  end
end
return reply
