-- history.lua gives the newest kept messages of a room, for who came late:
-- queryRoomHistory.
--
-- Uses     value clock limits room query
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user       who asks
-- ARGV[3]  session
-- ARGV[4]  count      at most as many
-- ARGV[5]  before     only those whose messageSeq is below; "0": all
-- ARGV[6]  max_bytes  of them together; one is given in any case
-- ARGV[7]  log_ttl    ms: older ones are not given, if they are still there
--
-- Returns  {"ok", epoch, seq, more, event, …}  oldest first; more is "1" if there are
--                     older ones
--          {"noroom"}
--          {"notin"}  the session is not in the room

local part = KEYS[1]
local id, user, session = ARGV[1], ARGV[2], ARGV[3]
local count, before, max_bytes, log_ttl = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local now_ms = now()
local room, refused = may_ask(part, id, user, session, now_ms)
if not room then
  return refused
end
local log = call("LRANGE", key(part, "log", id), 0, -1)
local found, bytes, more = {}, 0, "0"
for i = #log, 1, -1 do
  local kind, at, seq = log[i]:match("^%d+%z%d+%z(%a)%z(%d+)%z[^%z]*%z[^%z]*%z(%d+):")
  if kind == "m" and tonumber(at) >= now_ms - log_ttl and (before == 0 or tonumber(seq) < before) then
    if #found == count or #found > 0 and bytes + #log[i] > max_bytes then
      more = "1"
      break
    end
    found[#found + 1], bytes = log[i], bytes + #log[i]
  end
end
local reply = { "ok", room.epoch, number(room.seq), more }
for i = #found, 1, -1 do
  reply[#reply + 1] = found[i]
end
return reply
