-- place.lua: a user's list of rooms, and the user's session, as scripts see them
-- that are about a room. On one Redis they look for themselves. Where the user's
-- hash is in another slot, lib/apart.lua stands here in place of this file.

-- stale gives which reservations of a session have been given back, if the one that
-- an entry shows is among them. On one Redis there are none.
local function stale()
  return false
end

-- order tells a node to close a session's socket, unless the socket belongs to
-- a generation of at least the one named.
local function order(control, user, node, code, session, generation)
  call("PUBLISH", root(control) .. "node:" .. node, code .. NUL .. session .. NUL .. generation)
end

-- acts says whether a session is connected to a node, under this generation.
local function acts(user_key, session, generation, node)
  local mine = generation .. NUL .. node .. NUL .. NUL -- and no deadline
  return (call("HGET", user_key, "s:" .. session) or ""):sub(1, #mine) == mine
end

-- acts_on is acts for one node only.
local function acts_on(user_key, session, generation, node)
  local s = session_record(call("HGET", user_key, "s:" .. session))
  return s and s.generation == generation and s.node == node
end

-- newer says whether a membership shows that its session has moved on, though
-- its record did not.
local function newer()
  return false
end

-- void drops what still names a session's membership, which is gone: its room
-- has ended. node is that of the session, "" if it is parked.
local function void(part, id, user_key, user, session, node)
  call("HDEL", user_key, "r:" .. id)
  if node == "" then
    call("ZREM", part .. "parked", session .. NUL .. user .. NUL .. id)
  else
    call("SREM", key(part, "node", node), user .. NUL .. id)
  end
end

-- void_place is void for what the user's hash has of a room: an entry of
-- user_room, and the room's ID.
local function void_place(part, id, user_key, user, place)
  local s = session_record(call("HGET", user_key, "s:" .. place.session))
  void(part, id, user_key, user, place.session, s and s.node or "")
end

-- hold_place notes that a session is in a room.
local function hold_place(user_key, id, epoch, partition, session)
  call("HSET", user_key, "r:" .. id, epoch .. NUL .. partition .. NUL .. session)
end

-- take_place is hold_place for one that enters. other is the membership whose
-- place it takes, or nil.
local function take_place(part, id, room, user_key, user, mine, other, partition)
  if call("HSETNX", user_key, "r:" .. id, room.epoch .. NUL .. partition .. NUL .. mine.session) == 0 then -- seldom
    -- From an earlier life of the room, or the place that is taken.
    local before = user_room(call("HGET", user_key, "r:" .. id))
    if before.session ~= mine.session then
      void_place(part, id, user_key, user, before)
    end
    hold_place(user_key, id, room.epoch, partition, mine.session)
  end
end

-- give_place notes that a membership has ended.
local function give_place(part, id, user_key, user, m)
  call("HDEL", user_key, "r:" .. id)
end

-- rooms_of_user counts the rooms a user is in, over all devices. Below the
-- limit the size of the hash says enough; at the limit each room of the list is
-- looked at and those the user is no longer in are dropped from it.
local function rooms_of_user(part, user_key, user, limit)
  local n = 0
  if call("HLEN", user_key) - 1 >= limit then -- seldom
    local fields = call("HGETALL", user_key)
    for i = 1, #fields, 2 do
      local id = fields[i]:match("^r:(.*)$")
      if id then
        local r = user_room(fields[i + 1])
        local other = slot(part, r.partition)
        local f = call("HMGET", key(other, "room", id), "epoch")
        local m = f[1] and membership(call("HGET", key(other, "info", id), user))
        if m and m.session == r.session then
          n = n + 1
        else
          void_place(other, id, user_key, user, r)
        end
      end
    end
  end
  return n
end

-- rooms_of lists the rooms a session is in, or with nil any session of the
-- user, as the user's hash has it: {id, epoch, partition, session}.
local function rooms_of(fields, session)
  local rooms = {}
  for i = 1, #fields, 2 do
    local id = fields[i]:match("^r:(.*)$")
    if id then
      local r = user_room(fields[i + 1])
      if not session or r.session == session then
        r.id = id
        rooms[#rooms + 1] = r
      end
    end
  end
  return rooms
end

-- drop_void drops from a user's hash the rooms that have ended.
local function drop_void(any_part, user_key, user)
  for _, r in ipairs(rooms_of(call("HGETALL", user_key))) do
    local part = slot(any_part, r.partition)
    local m = membership(call("HGET", key(part, "info", r.id), user))
    if not m or m.session ~= r.session then
      void_place(part, r.id, user_key, user, r)
    end
  end
end

-- park_rooms parks every membership of a session on a node, but for the indexes,
-- which are written later.
local function park_rooms(any_part, user_key, fields, user, session, node, deadline)
  for _, r in ipairs(rooms_of(fields, session)) do
    local part, id = slot(any_part, r.partition), r.id
    local info = key(part, "info", id)
    local parked, at = moved(call("HGET", info, user), session, "")
    if parked then
      if at ~= "" then
        later("SREM", key(part, "node", at), user .. NUL .. id)
      end
      call("HSET", info, user, parked)
      later("ZADD", part .. "parked", deadline, session .. NUL .. user .. NUL .. id)
    else
      void(part, id, user_key, user, session, node)
    end
  end
end

-- park_rest writes the indexes of the rooms again that an earlier call to park a session
-- on a node got to: it may not have got to those.
local function park_rest(any_part, fields, user, session, s, node)
  for _, r in ipairs(rooms_of(fields, session)) do
    local part, id = slot(any_part, r.partition), r.id
    local m = membership(call("HGET", key(part, "info", id), user))
    if m and m.session == session and m.node == "" then
      later("SREM", key(part, "node", node), user .. NUL .. id)
      later("ZADD", part .. "parked", s.deadline, session .. NUL .. user .. NUL .. id)
    end
  end
end

-- rooms_here is rooms_of for a script that sees to those rooms itself.
local function rooms_here(fields, session)
  return rooms_of(fields, session)
end

-- list_rest is for the rooms of a session that rooms_here does not give: there
-- are none.
local function list_rest()
end

-- outlive has what is left of a session that its device has replaced dropped
-- when its places are over.
local function outlive(uslot, user_key, fields, user, session, deadline)
  if #rooms_of(fields, session) > 0 then
    call("ZADD", uslot .. "parked", deadline, session .. NUL .. user)
  end
end

-- leave_later has others take a session that is one too many out of its rooms.
local function leave_later()
end

-- forget_outcomes lets go of the outcomes of a session that has ended: a call of
-- it that is still under way may be repeated, and no other. Where there are many
-- partitions they expire by themselves, later: a sweep ends many sessions at once.
local function forget_outcomes(uslot, partitions, session, ms)
  call("PEXPIRE", key(uslot, "did", session), ms)
  for p = 0, partitions > 16 and -1 or partitions - 1 do
    call("PEXPIRE", key(slot(uslot, tostring(p)), "did", session), ms)
  end
end

-- shows_life has a node's lease, where it has lapsed, end no earlier than now: what
-- it takes over now lasts from now on if it is given up after all.
local function shows_life(control, node, awake_ms)
  call("ZADD", root(control) .. "nodes", "XX", "GT", awake_ms, node)
end
