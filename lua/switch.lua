-- switch.lua takes a session out of one room and into another, at once:
-- switchRoom (rows 15–20). Nobody can see the user in both, or in neither.
--
-- Uses     value clock room log request depart session limits join result
--
-- KEYS[1]  from     prefix  of the keys in the partition of the room left
-- KEYS[2]  to       prefix  of the keys in the partition of the room entered
-- KEYS[3]  user     hash    the user's sessions and rooms
-- KEYS[4]  control  prefix  of clock and dead
--
-- ARGV[1]   from_room
-- ARGV[2]   to_room
-- ARGV[3]   user
-- ARGV[4]   session
-- ARGV[5]   generation    of the session, as the caller knows it
-- ARGV[6]   node
-- ARGV[7]   request_key   "" for none
-- ARGV[8]   number_of_partition  of the room entered
-- ARGV[9]   user_slot     where the user's hash lives
-- ARGV[10]  data          what others see of the user; opaque
-- ARGV[11]  may_create    "1": the room entered is created if there is none
-- ARGV[12]  name          used then
-- ARGV[13]  delay         seconds; likewise
-- ARGV[14]  keep          "0": an emptied room loses name and attributes; likewise
-- ARGV[15]  max_members
-- ARGV[16]  max_rooms     0 for any number
-- ARGV[17]  partitions
-- ARGV[18]  did_ttl       ms
-- ARGV[19]  gone_ttl      ms
-- ARGV[20]  log_size      events
-- ARGV[21]  log_bytes
-- ARGV[22]  log_ttl       ms
-- ARGV[23]  attributes    how many; key and value of each follow; used if the room is created
-- ARGV[24]  key, value, …
--
-- Returns  {"ok", from_epoch, from_seq, epoch, seq, count, created, entered, delay, name, attributes, key, value, …}
--                         from_seq is that of the departure; the rest is as enter has it
--          {"again", …}   the same, of an earlier call under this request_key;
--                         with attributes "0", or "-1" if the session is not
--                         in the room any more
--          {"notfrom"}    the session is not in from_room
--          {"noroom"}     there is no to_room, and it may not be created
--          {"roomlimit"}  there is no to_room, and max_rooms exist
--          {"blocked"}    the user is blocked from to_room
--          {"full"}       max_members are in to_room
--          {"fenced"}     the node has been given up, or the session has moved,
--                         is parked, or has ended
--
-- Publishes  in to_room what enter does; in from_room what leave does

local from, to, user_key, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local from_id, id, user, session, generation, node = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local request_key, partition, user_slot, data = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local may_create, name, delay, keep = ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local max_members, max_rooms, partitions = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local did_ttl, ttls = ARGV[18], { log = ARGV[22], gone = ARGV[19] }
local limits = { size = tonumber(ARGV[20]), bytes = tonumber(ARGV[21]), ttl = tonumber(ARGV[22]) }
local attributes = tonumber(ARGV[23])

-- The answer of an entry, with where the other room was left.
local function with_departure(epoch, seq, reply)
  table.insert(reply, 2, seq)
  table.insert(reply, 2, epoch)
  return reply
end

-- Decide.
if dead(control, node) then
  return { "fenced" }
end
local s = session_record(call("HGET", user_key, "s:" .. session))
if not s or s.generation ~= generation or s.deadline ~= "" then
  return { "fenced" }
end
local before = outcome(to, session, request_key)
local m = membership(call("HGET", key(to, "info", id), user))
if before then
  local from_epoch, from_seq, rest = before:match("^(%d+)%z(%d+)%z(.*)$")
  return with_departure(from_epoch, from_seq, repeated(rest, m and m.session == session))
end
local now_ms, now_us = now()
local from_room = load(from, from_id, now_ms)
local old = from_room and membership(call("HGET", key(from, "info", from_id), user))
if not old or old.session ~= session then
  return { "notfrom" }
end
local gone = call("HGET", key(to, "gone", session), id)
if old.generation ~= generation or gone and overtaken(gone, generation, request_key) then
  return { "fenced" }
end
local room = load(to, id, now_ms)
if not room then
  m = nil
  if max_rooms > 0 and rooms_exist(to, partitions, now_ms) >= max_rooms then
    return { "roomlimit" }
  end
  if may_create ~= "1" then
    return { "noroom" }
  end
elseif blocked(to, id, user, now_ms) then
  return { "blocked" }
elseif not m and call("ZCARD", key(to, "members", id)) >= max_members then
  return { "full" }
end

-- Apply and announce. The user's room limit is not asked: one in, one out.
local created = room and "0" or "1"
if not room then
  room = create(to, control, id, user,
    { name = name, delay = delay, keep = keep, attributes = { unpack(ARGV, 24, 23 + 2 * attributes) } }, now_ms, now_us)
end
local seq, entered, count
if m and m.session == session then
  -- The session was in both; only the departure is left to do.
  seq, count = number(room.seq), number(call("ZCARD", key(to, "members", id)))
  entered = number(tonumber(call("ZSCORE", key(to, "members", id), user)))
else
  local mine = { session = session, generation = generation, node = node, user_slot = user_slot, data = data }
  seq, entered, count = join(to, id, room, user_key, user, mine, m, partition,
    may_create == "1" and name or nil, limits, did_ttl, now_ms)
end
if gone then
  call("HDEL", key(to, "gone", session), id)
end
local from_seq = number(depart(from, from_id, from_room, user_key, user, old, "left", "", request_key, ttls, now_ms))
remember(to, session, request_key, table.concat(
  { from_room.epoch, from_seq, room.epoch, seq, count, created, entered, room.delay, room.name }, NUL), did_ttl)
return with_departure(from_room.epoch, from_seq,
  result("ok", to, id, room.epoch, seq, count, created, entered, room.delay, room.name))
