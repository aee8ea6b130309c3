-- decide.lua says what became of a switch to a room in another hash slot than the one
-- that was to be left: if it has not happened, it will not any more.
--
-- Uses     value request apart
--
-- KEYS[1]  partition  prefix  of the keys in the partition of the room to enter
--
-- ARGV[1]  room
-- ARGV[2]  from_room
-- ARGV[3]  session
-- ARGV[4]  request_key  of the switch
-- ARGV[5]  ticket       of the reservation that it was to show
-- ARGV[6]  gone_ttl     ms
--
-- Returns  {"ok"}    it has happened: the other room is to be left
--          {"late"}  it has not, and its ticket has been fenced
--
-- Publishes  nothing

local part, id, from_id, session, request_key = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ticket, gone_ttl = ARGV[5], ARGV[6]

local before = outcome(part, session, request_key, "switch", id)
if before and before:sub(1, #from_id + 1) == from_id .. NUL then
  return { "ok" }
end
fence(part, session, id, ticket)
call("PEXPIRE", key(part, "gone", session), gone_ttl)
return { "late" }
