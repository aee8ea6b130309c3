-- enter.lua makes a user a member of a room for one session: createRoom,
-- joinRoom and enterRoom (rows 1–13 and 31).
--
-- Uses     value clock session place limits room log request entry attributes depart join result
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  user       hash    the user's sessions and rooms; see lib/place.lua
-- KEYS[3]  control    prefix  of clock and dead
--
-- ARGV[1]   mode          "create", "join" or "enter"
-- ARGV[2]   room
-- ARGV[3]   user
-- ARGV[4]   session
-- ARGV[5]   generation    of the session, as the caller knows it
-- ARGV[6]   node
-- ARGV[7]   request_key   "" for none
-- ARGV[8]   number_of_partition  of the room
-- ARGV[9]   user_slot     where the user's hash lives
-- ARGV[10]  data          what others see of the user; opaque
-- ARGV[11]  name          used if the room is created
-- ARGV[12]  delay         seconds; likewise
-- ARGV[13]  keep          "0": an emptied room loses name and attributes; likewise
-- ARGV[14]  max_members
-- ARGV[15]  max_user_rooms  0 if the user is known to be in as many as allowed
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
-- ARGV[25]  admission     with which the room may be created, "" for none; see lib/admission.lua
-- ARGV[26]  attributes    how many; key and value of each follow; used if the room is created
-- ARGV[27]  key, value, …
--
-- Returns  {"ok", epoch, seq, count, created, entered, delay, name, attributes, key, field, …}
--                         entered is the seq of the membership's entry event;
--                         each attribute is as attrs has it
--          {"again", …}   the same, of an earlier call under this request_key;
--                         attributes are those of now, or "-1" if the session
--                         is not in the room any more, or "-2" if it is since
--                         a later entry
--          {"already", …} the same; the session was in the room and nothing changed
--          {"exists"}     mode "create", and there is such a room
--          {"noroom"}     mode "join", and there is none
--          {"roomlimit"}  it would have been created, but max_rooms exist
--          {"unadmitted", number, ticket}  likewise, but for want of an admission: it has to
--                         be of the count of this number, and above this ticket
--          {"blocked"}    the user is blocked from the room
--          {"userlimit"}  the user is in max_user_rooms
--          {"full"}       max_members are in the room
--          {"misused"}    the request_key was another request's
--          {"late"}       this try was given up, or ask: none was applied
--          {"stale", ticket}  the reservation has been given back, and all up to this ticket
--          {"fenced"}     the node has been given up, or the session has moved,
--                         is parked, or has ended
--
-- Publishes  "created" on the life channel; "j", or "v" if the place was
-- another session's of the same user.

local part, user_key, control = KEYS[1], KEYS[2], KEYS[3]
local mode, id, user, session, generation, node = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local request_key, partition, user_slot, data = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local name, delay, keep = ARGV[11], ARGV[12], ARGV[13]
local max_members, max_user_rooms, max_rooms = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local partitions, did_ttl, gone_ttl = tonumber(ARGV[17]), ARGV[18], ARGV[19]
local log_size, log_bytes, log_ttl = ARGV[20], ARGV[21], ARGV[22]
local try, ask, admission = ARGV[23], ARGV[24] == "1", ARGV[25]
local members = part .. "members:" .. id

-- Decide.
if dead(control, node) then
  return { "fenced" }
end
if not acts(user_key, session, generation, node) then
  return { "fenced" }
end
local before, misused, did_at, given_up = entry_outcome(part, session, request_key, mode, id, generation, try)
if misused then
  return { "misused" }
end
if given_up then
  return { "late" }
end
local m = call("HGET", part .. "info:" .. id, user)
if m then -- seldom
  m = membership(m)
end
if before then -- seldom
  return repeated(before, part, id, m, session)
end
if ask then -- seldom
  give_up(part, session, request_key, mode, id, generation, try, did_ttl, did_at)
  return { "late" }
end
local gone = call("HGET", part .. "gone:" .. session, id)
if gone then -- seldom
  if overtaken(gone, generation, request_key) then
    return { "fenced" }
  end
end
local fenced = stale(part, session, id, user_slot)
if fenced then
  return { "stale", fenced }
end
local now_ms, now_us = now()
local room = load(part, id, now_ms)
local size = room and call("ZCARD", members) or 0
if room and mode == "create" then
  return { "exists" }
end
if not room then -- seldom
  m = nil
  if mode == "join" then
    return { "noroom" }
  end
  if rooms_full(part, partitions, max_rooms, now_ms) then
    return { "roomlimit" }
  end
  local counted, barred = unadmitted(part, id, max_rooms, partitions, admission)
  if counted then
    return { "unadmitted", counted, barred }
  end
elseif m and m.session == session then
  if m.generation ~= generation then
    return { "fenced" }
  end
  return result("already", part, id, room.attrs, room.epoch, number(room.seq), number(size), "0",
    number(tonumber(call("ZSCORE", members, user))), room.delay, room.name)
end
if room and room.blocked then -- seldom
  if blocked(part, id, user, now_ms) then
    return { "blocked" }
  end
end
if not m or max_user_rooms == 0 then
  if rooms_of_user(part, user_key, user, max_user_rooms) >= max_user_rooms then
    return { "userlimit" }
  end
  if size >= max_members then
    return { "full" }
  end
end

-- Apply and announce.
local created = room and "0" or "1"
if not room then -- seldom
  local attributes = {}
  for i = 1, tonumber(ARGV[26]) do
    attributes[2 * i - 1], attributes[2 * i] = ARGV[25 + 2 * i], ARGV[26 + 2 * i]
  end
  room = create(part, control, id, user,
    { name = name, delay = delay, keep = keep, attributes = attributes, admission = admission }, now_ms, now_us)
end
local seq, entered, count = join(part, id, room, user_key, user,
  { session = session, generation = generation, node = node, user_slot = user_slot, data = data },
  m, size, partition, mode == "enter" and name or nil,
  m and { size = tonumber(log_size), bytes = tonumber(log_bytes), ttl = log_ttl }, gone_ttl, now_ms)
if gone then
  call("HDEL", part .. "gone:" .. session, id)
end
remember(part, session, request_key, mode, id, room.epoch .. NUL .. seq .. NUL .. count .. NUL .. created .. NUL ..
  entered .. NUL .. room.delay .. NUL .. room.name, did_ttl, did_at, now_ms, now_us)
return result("ok", part, id, room.attrs, room.epoch, seq, count, created, entered, room.delay, room.name)
