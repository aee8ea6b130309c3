-- enter.lua makes a user a member of a room for one session: createRoom,
-- joinRoom and enterRoom (rows 1–13 and 31). Several calls may go together.
--
-- Uses     value clock session together place limits room log request entry attributes depart join result
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  control    prefix  of clock and dead
--
-- ARGV[1]   count           of the entries
-- ARGV[2]   node
-- ARGV[3]   number_of_partition  of the rooms
-- ARGV[4]   keep            "0": an emptied room loses name and attributes; used if one is created
-- ARGV[5]   max_members
-- ARGV[6]   max_user_rooms  0 if the user is known to be in as many as allowed
-- ARGV[7]   max_rooms       0 for any number
-- ARGV[8]   partitions
-- ARGV[9]   did_ttl         ms
-- ARGV[10]  gone_ttl        ms
-- ARGV[11]  log_size        events
-- ARGV[12]  log_bytes
-- ARGV[13]  log_ttl         ms
-- ARGV[14]  mode, room, user, user_key, user_slot, session, generation, request_key, try, ask, data, name, delay, admission, attributes, …
--             mode is "create", "join" or "enter"
--             user_key is the user's hash, of sessions and rooms, see lib/place.lua, and
--             user_slot where it lives
--             generation is the session's, as the caller knows it
--             request_key is "" for none, and try rises with each try under it
--             ask is "1" to ask only what earlier tries came to; if none of them is
--             applied, none up to this one will be
--             data is what others see of the user; opaque
--             name, delay, in seconds, and attributes, a list of keys and values, are
--             used if the room is created
--             admission is that with which it may be, "" for none; see lib/admission.lua
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
--          {"fenced"}     the session has moved, is parked, or has ended
--          Of several entries: a list of these.
--          {"fenced"}     the node has been given up: for all of them
--
-- Publishes  "created" on the life channel; "j", or "v" if the place was
-- another session's of the same user.

local part, control, count, node, partition = KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local keep, max_members, max_user_rooms = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local max_rooms, partitions, did_ttl, gone_ttl = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]
local log_size, log_bytes, log_ttl = ARGV[11], ARGV[12], ARGV[13]

if dead(control, node) then
  return { "fenced" }
end
local now_ms, now_us = now()

-- enter gives what is answered for one entry.
local function enter(mode, id, user, user_key, user_slot, session, generation, request_key, try, ask, data, name, delay,
    admission, attributes)
  -- Decide.
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
  local members, m = part .. "members:" .. id, call("HGET", part .. "info:" .. id, user)
  if m then -- seldom
    m = membership(m)
  end
  if before then -- seldom
    return repeated(before, part, id, m, session)
  end
  if ask == "1" then -- seldom
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
    room = create(part, control, id, user,
      { name = name, delay = delay, keep = keep, attributes = texts_of(attributes), admission = admission }, now_ms, now_us)
  end
  local seq, entered, members_now = join(part, id, room, user_key, user,
    { session = session, generation = generation, node = node, user_slot = user_slot, data = data },
    m, size, partition, mode == "enter" and name or nil,
    m and { size = tonumber(log_size), bytes = tonumber(log_bytes), ttl = log_ttl }, gone_ttl, now_ms)
  if gone then
    call("HDEL", part .. "gone:" .. session, id)
  end
  remember(part, session, request_key, mode, id, room.epoch .. NUL .. seq .. NUL .. members_now .. NUL .. created .. NUL ..
    entered .. NUL .. room.delay .. NUL .. room.name, did_ttl, did_at, now_ms, now_us)
  return result("ok", part, id, room.attrs, room.epoch, seq, members_now, created, entered, room.delay, room.name)
end

return together(count, enter, 14, 15)
