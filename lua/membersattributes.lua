-- membersattributes.lua gives attributes of members of a room: of those named, or a
-- page of all who have some, by user.
--
-- Uses     value clock limits room query
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user     who asks
-- ARGV[3]  session
-- ARGV[4]  page     how many; "0": those named
-- ARGV[5]  after    a page has users above this one; "" for the first
-- ARGV[6]  count    of the users named; they follow
-- ARGV[7]  user, …
--
-- Returns  {"ok", epoch, seq, more, user, attributes, …}  more is "1" if a further page
--                     follows; attributes as lib/attributes.lua has them, each value with
--                     "0" or "1" before it
--          {"noroom"}
--          {"notin"}  the session is not in the room

local part = KEYS[1]
local id, user, session = ARGV[1], ARGV[2], ARGV[3]
local page, after, count = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])

local room, refused = may_ask(part, id, user, session, (now()))
if not room then
  return refused
end
local of_members, info = key(part, "memberattrs", id), key(part, "info", id)
local users = {}
local reply = { "ok", room.epoch, number(room.seq), "0" }
if page > 0 then
  for _, of in ipairs(call("HKEYS", of_members)) do
    if of > after then
      users[#users + 1] = of
    end
  end
  table.sort(users)
end
for i = 1, count do
  users[#users + 1] = ARGV[6 + i]
end
for _, of in ipairs(users) do
  local attributes = call("HEXISTS", info, of) == 1 and call("HGET", of_members, of)
  if attributes then
    if page > 0 and #reply == 4 + 2 * page then
      reply[4] = "1"
      break
    end
    reply[#reply + 1] = of
    reply[#reply + 1] = attributes
  end
end
return reply
