-- listmembers.lua gives one page of a room's members in the order of their entry,
-- for backends.
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  control    prefix  of clock
--
-- ARGV[1]  room
-- ARGV[2]  after      members that entered after this seq; "0" for the first page
-- ARGV[3]  count      at most
-- ARGV[4]  max_bytes  of their data; the first member is given whatever it has
--
-- Returns  {"ok", epoch, seq, now, members, last, user, joined, node, deadline, data, …}
--                     Redis's time in ms; how many members there are; the seq after
--                     which the next page begins, "" if this was the last; then five
--                     values a member: joined is "" if it is not known, node "" for
--                     one who is away, and deadline is when its time is over if
--                     Redis's clock goes on as it does, "" for one who is not
--          {"noroom"}

local part, control = KEYS[1], KEYS[2]
local id, after, count, max_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local now_ms = now()
local room = load(part, id, now_ms)
if not room then
  return { "noroom" }
end
local ahead = now_ms - awake(control, now_ms) -- of awake time
local members = key(part, "members", id)
local reply = { "ok", room.epoch, number(room.seq), number(now_ms), number(call("ZCARD", members)), "" }
-- One more than asked for tells whether this is the last page.
local page = call("ZRANGEBYSCORE", members, "(" .. after, "+inf", "WITHSCORES", "LIMIT", 0, count + 1)
local users = {}
for i = 1, math.min(#page, 2 * count), 2 do
  users[#users + 1] = page[i]
end
local given, bytes = 0, 0
if #users > 0 then
  for i, value in ipairs(call("HMGET", key(part, "info", id), unpack(users))) do
    local m = membership(value)
    bytes = bytes + #m.data
    if i > 1 and bytes > max_bytes then
      break
    end
    given = i
    local deadline = m.node == "" and call("ZSCORE", part .. "parked", m.session .. NUL .. users[i] .. NUL .. id)
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3] = users[i], m.joined, m.node
    reply[n + 4], reply[n + 5] = deadline and number(tonumber(deadline) + ahead) or "", m.data
  end
end
if #page > 2 * given then
  reply[6] = number(tonumber(page[2 * given]))
end
return reply
