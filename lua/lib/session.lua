-- session.lua: sessions of a user, on the user's hash.

-- dead says whether the node has been given up by the others: what it still
-- sends changes nothing.
local function dead(control, node)
  return call("ZSCORE", control .. "dead", node)
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

-- order tells a node to close a session's socket, unless the socket belongs to
-- a generation of at least the one named.
local function order(control, node, code, session, generation)
  call("PUBLISH", root(control) .. "node:" .. node, code .. NUL .. session .. NUL .. generation)
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

-- park_membership starts the clock of one membership.
local function park_membership(part, id, user, m, deadline)
  if m.node ~= "" then
    call("SREM", key(part, "node", m.node), user .. NUL .. id)
  end
  m.node = ""
  call("HSET", key(part, "info", id), user, membership_value(m))
  call("ZADD", part .. "parked", deadline, m.session .. NUL .. user .. NUL .. id)
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

-- park_rooms parks every membership of a session on a node.
local function park_rooms(any_part, user_key, fields, user, session, node, deadline)
  for _, r in ipairs(rooms_of(fields, session)) do
    local part = slot(any_part, r.partition)
    local m = membership(call("HGET", key(part, "info", r.id), user))
    if m and m.session == session then
      park_membership(part, r.id, user, m, deadline)
    else
      void(part, r.id, user_key, user, session, node)
    end
  end
end
