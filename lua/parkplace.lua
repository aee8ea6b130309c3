-- parkplace.lua notes in a room that a session is parked: its place lasts until
-- its deadline. One that is not there yet comes too late.
--
-- Uses     value clock session limits room apart
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user
-- ARGV[3]  session
-- ARGV[4]  generation  under which it was parked
-- ARGV[5]  ticket      of the reservation
-- ARGV[6]  node        that had the session
-- ARGV[7]  left_ms     until the deadline
-- ARGV[8]  gone_ttl    ms
--
-- Returns  {"ok"}
--
-- Publishes  nothing

local part, id, user, session, generation, ticket = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local node, left_ms, gone_ttl = ARGV[6], tonumber(ARGV[7]), ARGV[8]

local now_ms = now()
local room = load(part, id, now_ms)
local m = room and membership(call("HGET", key(part, "info", id), user))
if not m or m.session ~= session then
  give_back(part, id, user, session, ticket, node, m, gone_ttl)
elseif tonumber(m.generation) <= tonumber(generation) and m.node ~= "" then
  park_membership(part, id, user, m, awake(part, now_ms) + left_ms)
end
return { "ok" }
