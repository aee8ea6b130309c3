-- apart.lua: what place.lua is, for a script that cannot reach the user's hash,
-- or not the rooms, since they are in other hash slots (docs/cluster.md). What is
-- to be done there it lists.
--
-- A reservation has a ticket. A membership names its own behind the user's slot:
-- "u3#ticket". What is given back is fenced: no entry that shows a ticket so old
-- has any effect any more.

-- list adds to LISTED, which the script that this is put into has: what the caller
-- has to see to, put behind the reply. Seven values each: what, user, session, room,
-- ticket, the node that has the session, or had it until now, and a detail.
local function list(what, user, session, id, ticket, node, detail)
  local n = #LISTED
  LISTED[n + 1], LISTED[n + 2], LISTED[n + 3], LISTED[n + 4] = what, user, session, id
  LISTED[n + 5], LISTED[n + 6], LISTED[n + 7] = ticket, node, detail
end

-- order lists what a node is to be told about a session's socket: it listens in one
-- slot only.
local function order(control, user, node, code, session, generation)
  list("order", user, session, "", "0", node, code .. NUL .. session .. NUL .. generation)
end

local function ticket_of(user_slot)
  return user_slot:match("#(%d+)$") or "0"
end

-- fence has no entry of a session into a room take effect that shows this ticket
-- or an older one. The first write frees memory, so that a full Redis does it.
local function fence(part, session, id, ticket)
  local gone = key(part, "gone", session)
  local before = call("HGET", gone, NUL .. id)
  if not before or tonumber(before) < tonumber(ticket) then
    call("HDEL", gone, NUL .. id)
    call("HSET", gone, NUL .. id, ticket)
  end
end

-- give_back fences a reservation that is void, and drops what names its membership
-- in the room's slot. m is the user's membership, of another session, or nil.
local function give_back(part, id, user, session, ticket, node, m, gone_ttl)
  call("ZREM", part .. "parked", session .. NUL .. user .. NUL .. id)
  if not m or m.node ~= node then
    call("SREM", key(part, "node", node), user .. NUL .. id)
  end
  fence(part, session, id, ticket)
  call("PEXPIRE", key(part, "gone", session), gone_ttl)
end

-- here says whether a session is on a node, under this generation.
local function here(user_key, session, generation, node)
  local s = session_record(call("HGET", user_key, "s:" .. session))
  return s and s.generation == generation and s.node == node
end

-- reservation gives the ticket of a session's reservation for a room, or nil.
local function reservation(user_key, session, id)
  return (call("HGET", user_key, "r:" .. id .. NUL .. session) or ""):match("^%d+%z(%d+)$")
end

-- reserve makes one, above a ticket.
local function reserve(user_key, session, id, partition, above)
  local _, now_us = now()
  local ticket = number(math.max(now_us, above + 1))
  call("HSET", user_key, "r:" .. id .. NUL .. session, partition .. NUL .. ticket)
  return ticket
end

-- unreserve takes one back, if it still has this ticket.
local function unreserve(user_key, session, id, ticket)
  if reservation(user_key, session, id) == ticket then
    call("HDEL", user_key, "r:" .. id .. NUL .. session)
  end
end

-- stale gives up to which ticket a session's have been fenced, if the one that an
-- entry shows is among them.
local function stale(part, session, id, user_slot)
  local fenced = call("HGET", key(part, "gone", session), NUL .. id)
  return fenced and tonumber(ticket_of(user_slot)) <= tonumber(fenced) and fenced
end

-- The user's slot has been asked before: whoever has moved on since has fenced
-- the ticket.
local function acts()
  return true
end

local function acts_on()
  return true
end

local function newer(m, who)
  return m.session == who.session and tonumber(m.generation) > tonumber(who.generation)
end

local function rooms_of_user()
  return 0
end

local function hold_place()
end

-- give_place lists the reservation of a membership that has ended.
local function give_place(part, id, user_key, user, m)
  local ticket = ticket_of(m.user_slot)
  fence(part, m.session, id, ticket)
  list("free", user, m.session, id, ticket, m.node, "")
end

local function take_place(part, id, room, user_key, user, mine, other)
  if other then
    give_place(part, id, user_key, user, other)
  end
end

-- rooms_of lists the reservations of a session: {id, partition, session, ticket}.
local function rooms_of(fields, session)
  local rooms = {}
  for i = 1, #fields, 2 do
    local id, of = fields[i]:match("^r:([^%z]*)%z(.*)$")
    if id and of == session then
      local partition, ticket = fields[i + 1]:match("^(%d+)%z(%d+)$")
      rooms[#rooms + 1] = { id = id, partition = partition, session = of, ticket = ticket }
    end
  end
  return rooms
end

local function rooms_here()
  return {}
end

-- list_switches lists the switches of a session that are under way, or with an ID
-- those to that room: the detail is the room left, the ticket of its reservation, and
-- the requestKey.
local function list_switches(fields, user, session, only)
  for i = 1, #fields, 2 do
    local id, of = fields[i]:match("^w:([^%z]*)%z(.*)$")
    if id and of == session and (not only or only == id) then
      local ticket, detail = fields[i + 1]:match("^(%d+)%z(.*)$")
      list("switch", user, session, id, ticket, "", detail)
    end
  end
end

-- list_rooms lists what a session has under way, and all its reservations.
local function list_rooms(what, fields, user, session, node, detail)
  list_switches(fields, user, session)
  for _, r in ipairs(rooms_of(fields, session)) do
    list(what, user, session, r.id, r.ticket, node, detail)
  end
end

local function park_rooms(uslot, user_key, fields, user, session, node, deadline)
  local s = session_record(call("HGET", user_key, "s:" .. session))
  list_rooms("park", fields, user, session, node, s.generation)
end

local function park_rest(uslot, fields, user, session, s)
  list_rooms("park", fields, user, session, "", s.generation)
end

-- list_rest lists the reservations for rooms that are not among some, each with
-- NUL before and behind it.
local function list_rest(fields, user, session, generation, rooms)
  for _, r in ipairs(rooms_of(fields, session)) do
    if not rooms:find(NUL .. r.id .. NUL, 1, true) then
      list("stray", user, session, r.id, r.ticket, "", generation)
    end
  end
end

-- end_later notes that a session is over and its rooms are to be seen to, by the
-- sweep if nobody has before the deadline.
local function end_later(uslot, user_key, fields, user, session, why, deadline)
  if #rooms_of(fields, session) > 0 then
    call("HSET", user_key, "e:" .. session, why)
    call("ZADD", uslot .. "parked", deadline, session .. NUL .. user)
  end
end

local function outlive(uslot, user_key, fields, user, session, deadline)
  end_later(uslot, user_key, fields, user, session, "timeout", deadline)
end

local function leave_later(uslot, user_key, fields, user, session, node, now_ms)
  list_rooms("quit", fields, user, session, node, "kicked")
  end_later(uslot, user_key, fields, user, session, "kicked", now_ms)
end

-- The outcomes in the rooms' slots expire by themselves.
local function forget_outcomes(uslot, partitions, session, ms)
  call("PEXPIRE", key(uslot, "did", session), ms)
end

-- The caller sees to the lease before it takes anything over.
local function shows_life()
end
