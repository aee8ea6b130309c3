-- leaveall.lua takes a session out of all its rooms, and ends it if asked to:
-- leaveAllRoom and logout (rows 24 and 25).
--
-- Uses     value clock place limits room log request attributes depart
--
-- KEYS[1]  user   hash    the user's sessions and rooms
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]   user
-- ARGV[2]   session
-- ARGV[3]   generation
-- ARGV[4]   request_key  "" for none
-- ARGV[5]   end_session  "1" to end the session, too
-- ARGV[6]   did_ttl      ms
-- ARGV[7]   log_size     events
-- ARGV[8]   log_bytes
-- ARGV[9]   log_ttl      ms
-- ARGV[10]  gone_ttl     ms
-- ARGV[11]  partitions
--
-- Returns  {"ok", room, epoch, seq, …}     each room left, with its departure
--          {"again", room, epoch, seq, …}  the same, of an earlier call under
--                                          this request_key; of rooms that the
--                                          session was put back into, anew
--          {"fenced"}  the session has moved to another connection, or has ended
--          {"misused"} the request_key was another request's
--
-- Publishes  in each room what leave does

local user_key, uslot = KEYS[1], KEYS[2]
local user, session, generation, request_key, end_session = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local did_ttl, limits = ARGV[6], { size = ARGV[7], bytes = ARGV[8], ttl = ARGV[9], gone = ARGV[10] }

-- Decide.
local before, misused, did_at = outcome(uslot, session, request_key, "all", "")
if misused then
  return { "misused" }
end
local s = session_record(call("HGET", user_key, "s:" .. session))
local mine = s and s.generation == generation
if not before and not mine then
  return { "fenced" }
end

-- Apply and announce. The first write frees memory, so that a full Redis does it
-- for a session in no room, too.
local now_ms, now_us = now()
local reply = { "again" }
if not before then
  reply = { "ok" }
  call("HDEL", key(uslot, "did", session), request_key)
end
local function say(id, epoch, seq)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = id, epoch, seq
end

local function take_out(part, id, room, m)
  return depart(part, id, room, user_key, user, m, "left", "", request_key, limits, now_ms)
end

for id, epoch, seq in (before or ""):gmatch("([^%z]*)%z(%d+)%z(%d+)%z") do
  local r = mine and call("HGET", user_key, "r:" .. id)
  local part = r and slot(uslot, user_room(r).partition)
  if r and put_back(part, id, user, session, epoch, seq) then
    local room = load(part, id, now_ms)
    epoch, seq = room.epoch, take_out(part, id, room, membership(call("HGET", key(part, "info", id), user)))
  end
  say(id, epoch, seq)
end
for _, r in ipairs(before and {} or rooms_of(call("HGETALL", user_key), session)) do
  local part = slot(uslot, r.partition)
  local room = load(part, r.id, now_ms)
  local m = room and membership(call("HGET", key(part, "info", r.id), user))
  if m and m.session == session then
    say(r.id, room.epoch, take_out(part, r.id, room, m))
  else
    void(part, r.id, user_key, user, session, s.node)
  end
end
if end_session == "1" and mine then
  call("HDEL", user_key, "s:" .. session)
  call("ZREM", uslot .. "parked", session .. NUL .. user)
  call("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
end
if not before then
  local left = {}
  for i = 2, #reply do
    left[i - 1] = reply[i] .. NUL
  end
  remember(uslot, session, request_key, "all", "", table.concat(left), did_ttl, did_at, now_ms, now_us)
end
if end_session == "1" and mine then
  forget_outcomes(uslot, tonumber(ARGV[11]), session, limits.gone)
end
return reply
