-- undo.lua takes back an entry that turned out to have happened after its
-- client had been told that it failed, and gives up its tries so far. A later
-- one is decided anew.
--
-- Uses     value clock place limits room log request entry attributes depart
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  user       hash    the user's sessions and rooms
--
-- ARGV[1]   room
-- ARGV[2]   user
-- ARGV[3]   session
-- ARGV[4]   generation
-- ARGV[5]   request_key  of the entry
-- ARGV[6]   mode         of the entry
-- ARGV[7]   try          the last of the entry
-- ARGV[8]   did_ttl      ms
-- ARGV[9]   log_size     events
-- ARGV[10]  log_bytes
-- ARGV[11]  log_ttl      ms
-- ARGV[12]  gone_ttl     ms
--
-- Returns  {"ok", epoch, seq}  of the departure
--          {"late"}     there is nothing to take back, any more
--          {"noroom"}   nor here: the room has ended
--          {"notin"}    nor here: the membership has ended, or is another
--          {"misused"}  the request_key is another request's
--          {"fenced"}   the session has moved to another connection, or is parked
--
-- Publishes  what leave does

local part, user_key = KEYS[1], KEYS[2]
local id, user, session, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local request_key, mode, try = ARGV[5], ARGV[6], ARGV[7]
local did_ttl, limits = ARGV[8], { size = ARGV[9], bytes = ARGV[10], ttl = ARGV[11], gone = ARGV[12] }

-- Decide.
local before, misused, did_at = entry_outcome(part, session, request_key, mode, id, generation, try)
if misused then
  return { "misused" }
end
if not before then
  return { "late" }
end
local now_ms = now()
local head = call("HMGET", part .. "room:" .. id, "epoch", "seq", "term", "deadline", "delay", "bequests")
-- Here act
local room = { epoch = head[1], seq = head[2] + 0, delay = head[5], bequests = head[6] }
local epoch, seq = before:match("^(%d+)%z(%d+)%z")
local _, from = healing(part, id, room)
if room.epoch ~= epoch and not from:find("," .. epoch .. ",", 1, true) or entered_since(part, id, session, epoch, seq) then
  return { "notin" }
end

-- Apply and announce. Nothing overtakes the tries to come.
local left = depart(part, id, room, user_key, user, membership(info), "left", "", "", limits, now_ms)
give_up(part, session, request_key, mode, id, generation, try, did_ttl, did_at)
return { "ok", epoch, left }
