-- switch.lua takes a session out of one room and into another, at once:
-- switchRoom (rows 15–20). Nobody can see the user in both, or in neither.
--
-- Uses     value clock session place limits room log request entry attributes depart join result
--
-- KEYS[1]  from     prefix  of the keys in the partition of the room left; see from_state
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
-- ARGV[23]  try           rises with each try under this request_key
-- ARGV[24]  ask           "1": only ask what earlier tries came to; if none of
--                         them is applied, none up to this one will be
-- ARGV[25]  from_state    "" if from_room is to be left here; else the caller sees to it,
--                         and it says "in", "notfrom" or "fenced" of the session there
-- ARGV[26]  admission     with which the room may be created, "" for none; see lib/admission.lua
-- ARGV[27]  attributes    list of keys and values; used if the room is created
--
-- Returns  {"ok", from_epoch, from_seq, epoch, seq, count, created, entered, delay, name, attributes, key, field, …}
--                         from_seq is that of the departure, "0" with a from_state; the
--                         rest is as enter has it
--          {"again", …}   the same, of an earlier call under this request_key;
--                         attributes are those of now, or "-1" if the session
--                         is not in the room any more, or "-2" if it is since
--                         a later entry
--          {"already", …} the same; the session was in to_room, too, where
--                         nothing changed
--          {"notfrom"}    the session is not in from_room, or that is to_room
--          {"noroom"}     there is no to_room, and it may not be created
--          {"roomlimit"}  there is no to_room, and max_rooms exist
--          {"unadmitted", number, ticket}  there is no to_room, and admission is not enough, as
--                         enter has it
--          {"blocked"}    the user is blocked from to_room
--          {"full"}       max_members are in to_room
--          {"misused"}    the request_key was another request's
--          {"late"}       this try was given up, or ask: none was applied
--          {"stale", ticket}  the reservation has been given back, and all up to this ticket
--          {"fenced"}     the node has been given up, or the session has moved,
--                         is parked, or has ended
--
-- Publishes  in to_room what enter does; in from_room what leave does

local from, to, user_key, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local from_id, id, user, session, generation, node = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local request_key, partition, user_slot, data = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local may_create, name, delay, keep = ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local max_members, max_rooms, partitions = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local did_ttl, gone_ttl = ARGV[18], ARGV[19]
local limits = { size = tonumber(ARGV[20]), bytes = tonumber(ARGV[21]), ttl = tonumber(ARGV[22]), gone = gone_ttl }
local try, ask = ARGV[23], ARGV[24] == "1"
local from_state, admission, attributes = ARGV[25], ARGV[26], ARGV[27]
local here = from_state == ""

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
if not acts(user_key, session, generation, node) then
  return { "fenced" }
end
local before, misused, did_at, late = entry_outcome(to, session, request_key, "switch", id, generation, try)
local before_id, before_epoch, before_seq, rest
if before then
  before_id, before_epoch, before_seq, rest = before:match("^([^%z]*)%z(%d+)%z(%d+)%z(.*)$")
end
if misused or before and before_id ~= from_id then
  return { "misused" }
end
if late then
  return { "late" }
end
local m = membership(call("HGET", key(to, "info", id), user))
if before then
  if here and put_back(from, from_id, user, session, before_epoch, before_seq) then
    -- That half of it is done again.
    local now_ms = now()
    local room = load(from, from_id, now_ms)
    local old = membership(call("HGET", key(from, "info", from_id), user))
    before_epoch, before_seq = room.epoch, depart(from, from_id, room, user_key, user, old, "left", "", request_key,
      limits, now_ms)
  end
  return with_departure(before_epoch, before_seq, repeated(rest, to, id, m, session))
end
if ask then
  give_up(to, session, request_key, "switch", id, generation, try, did_ttl, did_at)
  return { "late" }
end
local now_ms, now_us = now()
local from_room = from_id ~= id and (not here or load(from, from_id, now_ms))
local old = { session = session, generation = generation, node = node }
if here then
  old = from_room and membership(call("HGET", key(from, "info", from_id), user))
elseif from_state == "fenced" then
  return { "fenced" }
end
if from_state == "notfrom" or not from_room or not old or old.session ~= session then
  return { "notfrom" }
end
local gone = call("HGET", key(to, "gone", session), id)
if old.generation ~= generation or old.node == "" or gone and overtaken(gone, generation, request_key) then
  return { "fenced" }
end
local fenced = stale(to, session, id, user_slot)
if fenced then
  return { "stale", fenced }
end
local room = load(to, id, now_ms)
local stays, size = room and m and m.session == session, room and call("ZCARD", key(to, "members", id)) or 0
if not room then
  m = nil
  if rooms_full(to, partitions, max_rooms, now_ms) then
    return { "roomlimit" }
  end
  local counted, barred = unadmitted(to, id, max_rooms, partitions, admission)
  if counted then
    return { "unadmitted", counted, barred }
  end
  if may_create ~= "1" then
    return { "noroom" }
  end
elseif stays then
  if m.generation ~= generation then
    return { "fenced" }
  end
elseif room.blocked and blocked(to, id, user, now_ms) then
  return { "blocked" }
elseif not m and size >= max_members then
  return { "full" }
end

-- Apply and announce. The user's room limit is not asked: one in, one out.
local created = room and "0" or "1"
if not room then
  room = create(to, control, id, user,
    { name = name, delay = delay, keep = keep, attributes = texts_of(attributes), admission = admission }, now_ms, now_us)
end
local seq, entered, count, reply
if stays then
  local members = key(to, "members", id)
  seq, count = number(room.seq), number(size)
  entered = number(tonumber(call("ZSCORE", members, user)))
  reply = result("already", to, id, room.attrs, room.epoch, seq, count, created, entered, room.delay, room.name)
else
  local mine = { session = session, generation = generation, node = node, user_slot = user_slot, data = data }
  seq, entered, count = join(to, id, room, user_key, user, mine, m, size, partition,
    may_create == "1" and name or nil, limits, gone_ttl, now_ms)
  reply = result("ok", to, id, room.attrs, room.epoch, seq, count, created, entered, room.delay, room.name)
end
if gone then
  call("HDEL", key(to, "gone", session), id)
end
local from_epoch, from_seq = "0", "0"
if here then
  from_epoch = from_room.epoch
  from_seq = depart(from, from_id, from_room, user_key, user, old, "left", "", request_key, limits, now_ms)
end
remember(to, session, request_key, "switch", id, table.concat(
  { from_id, from_epoch, from_seq, room.epoch, seq, count, created, entered, room.delay, room.name }, NUL), did_ttl, did_at, now_ms, now_us)
return with_departure(from_epoch, from_seq, reply)
