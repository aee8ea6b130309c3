-- members.lua gives one page of a room's members in the order of their entry.
--
-- Uses     value clock limits room query
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user       who asks
-- ARGV[3]  session
-- ARGV[4]  after      members that entered after this seq; "0" for the first page
-- ARGV[5]  count      at most
-- ARGV[6]  max_bytes  of their data; the first member is given whatever it has
--
-- Returns  {"ok", epoch, seq, last, data, …}  last is the seq after which the next
--                                             page begins, "" if this was the last
--          {"noroom"}
--          {"notin"}  the session is not in the room

local part = KEYS[1]
local id, user, session, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local count, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])

local now_ms = now()
local room, refused = may_ask(part, id, user, session, now_ms)
if not room then
  return refused
end
-- One more than asked for tells whether this is the last page.
local page = call("ZRANGEBYSCORE", key(part, "members", id), "(" .. after, "+inf", "WITHSCORES", "LIMIT", 0, count + 1)
local users = {}
for i = 1, math.min(#page, 2 * count), 2 do
  users[#users + 1] = page[i]
end
local reply = { "ok", room.epoch, number(room.seq), "" }
local given, bytes = 0, 0
if #users > 0 then
  for i, value in ipairs(call("HMGET", key(part, "info", id), unpack(users))) do
    local data = membership(value).data
    bytes = bytes + #data
    if i > 1 and bytes > max_bytes then
      break
    end
    given = i
    reply[4 + i] = data
  end
end
if #page > 2 * given then
  reply[4] = number(tonumber(page[2 * given]))
end
return reply
