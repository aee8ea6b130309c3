-- create.lua creates a room with nobody in it, on a backend's word. It has its delay
-- for somebody to enter, or, if that is 0, as long as a delay may be at most.
--
-- Uses     value clock limits room attributes depart join describe
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  control    prefix  of clock
--
-- ARGV[1]  room
-- ARGV[2]  user        in whose name; owner of the attributes; "" for nobody
-- ARGV[3]  name
-- ARGV[4]  delay       seconds
-- ARGV[5]  keep        "0": an emptied room loses name and attributes
-- ARGV[6]  max_rooms   0 for any number
-- ARGV[7]  partitions
-- ARGV[8]  admission   as enter has it
-- ARGV[9]  attributes  list of keys and values
--
-- Returns  {"ok", now, epoch, seq, name, members, delay, created, deadline,
--          attributes, key, value, …}  as describe
--          {"exists"}
--          {"roomlimit"}  max_rooms exist
--          {"unadmitted", number, ticket}  as enter has it
--
-- Publishes  "created" on the life channel

-- The longest delay there is, in seconds.
local LONGEST_DELAY = 10800

local part, control = KEYS[1], KEYS[2]
local id, user, name, delay, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_rooms, partitions, admission, attributes = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9]

-- Decide.
local now_ms, now_us = now()
if load(part, id, now_ms) then
  return { "exists" }
end
if rooms_full(part, partitions, max_rooms, now_ms) then
  return { "roomlimit" }
end
local counted, barred = unadmitted(part, id, max_rooms, partitions, admission)
if counted then
  return { "unadmitted", counted, barred }
end

-- Apply and announce.
local room = create(part, control, id, user,
  { name = name, delay = delay, keep = keep, attributes = texts_of(attributes), admission = admission }, now_ms, now_us)
local wait = tonumber(delay) > 0 and tonumber(delay) or LONGEST_DELAY
expire(part, id, room, now_ms, wait * 1000)
local reply = { "ok", number(now_ms) }
describe(reply, part, id, room, true)
return reply
