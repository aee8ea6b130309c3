-- absent.lua says which of some sessions are not in a room.
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  count  of the sessions; two arguments each follow
-- ARGV[3]  user, session, …
--
-- Returns  {"ok", session, …}  those that are not

local part, id, count = KEYS[1], ARGV[1], tonumber(ARGV[2])

local room = load(part, id, (now()))
local reply = { "ok" }
for i = 1, count do
  local user, session = ARGV[1 + 2 * i], ARGV[2 + 2 * i]
  local m = room and membership(call("HGET", key(part, "info", id), user))
  if not m or m.session ~= session then
    reply[#reply + 1] = session
  end
end
return reply
