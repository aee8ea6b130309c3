-- resume.lua moves sessions to new connections, on this node or another, with
-- all the rooms they are in, and says of every room the clients named what became
-- of it. An earlier connection of a session is fenced off and told to close.
-- Several calls may go together.
--
-- Uses     value clock session together place limits room why
--
-- KEYS[1]  control  prefix  of clock and dead
--
-- ARGV[1]  count  of the sessions
-- ARGV[2]  node
-- ARGV[3]  user, user_slot, session, valid_until, named, …
--            user_slot is where the user's hash lives
--            valid_until is Redis's time in ms, "" for ever
--            named is of each room that the client named: "id NUL partition NUL"
--
-- Returns  {"ok", generation, slow, …}  the session goes on; slow is how many of
--                                 its connections were cut off lately since the
--                                 client read too slowly; six values a room follow
--          {"unknown", "", "0", …}  it does not, or no more; likewise
--          {"late"}               the call came after valid_until
--          Of several sessions: a list of these.
--          {"fenced"}             the node has been given up: for all of them
--          A room's six: id, what, epoch, seq, text, named ("1" or "0").
--          what is "in" (epoch and seq are the room's position now, text is
--          "delay NUL entry seq NUL name"), or why the session is not in it:
--          "noroom", "recreated", "device", "replaced" if the place is kept
--          for the next session of the device, or a reason kept by depart,
--          with its extended data as text.
--
-- Publishes  an order to close on the channel of each node that had a session

local control, count, node = KEYS[1], tonumber(ARGV[1]), ARGV[2]

if dead(control, node) then
  return { "fenced" }
end
local now_ms = now()
local awake_ms = awake(control, now_ms)
make_room(control)

-- reason is why, with what the user's slot knows of it.
local function reason(uslot, part, id, user, session, room, epoch)
  local what, text = why(part, id, user, session, room, epoch)
  if what == "kept" then
    what = call("HGET", key(uslot, "gone", session), "") == "replaced" and "replaced" or "timeout"
  end
  return what, text
end

local function say(reply, id, what, epoch, seq, text, named)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = id, what, epoch
  reply[n + 4], reply[n + 5], reply[n + 6] = seq, text, named and "1" or "0"
end

local goes_on = false -- any of them

-- Seldom was the client of any of them too slow.
local slow = {}
for i = 0, count - 1 do
  slow[i + 1] = key(slot(control, ARGV[4 + 5 * i]), "slow", ARGV[5 + 5 * i])
end
local some_slow = call("EXISTS", unpack(slow)) > 0

-- Nothing here changes a room that is there, so each is read once.
local rooms = {}

local function look(part, id)
  local room_key = part .. id
  local room = rooms[room_key]
  if room == nil then
    room = load(part, id, now_ms) or false
    if room then
      room.head = number(room.seq)
    end
    rooms[room_key] = room
  end
  return room
end

-- take_over moves a session that goes on, and says what became of its rooms.
local function take_over(reply, user, uslot, user_key, session, s, fields, generation, partition_of)
  if s.node ~= "" and s.node ~= node then
    later("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
  end
  if s.deadline ~= "" then
    later("ZREM", uslot .. "parked", session .. NUL .. user)
  end
  for _, r in ipairs(rooms_of(fields, session)) do
    local part, id = slot(uslot, r.partition), r.id
    local room, info = look(part, id), key(part, "info", id)
    local here, at = moved(room and call("HGET", info, user), session, node, generation)
    local named = partition_of[id]
    partition_of[id] = nil
    if here then
      if at == "" then
        later("ZREM", part .. "parked", session .. NUL .. user .. NUL .. id)
      elseif at ~= node then
        later("SREM", key(part, "node", at), user .. NUL .. id)
      end
      call("HSET", info, user, here)
      later("SADD", key(part, "node", node), user .. NUL .. id)
      say(reply, id, "in", room.epoch, room.head,
        room.delay .. NUL .. call("ZSCORE", key(part, "members", id), user) .. NUL .. room.name, named)
    else
      void(part, id, user_key, user, session, s.node)
      local what, text = reason(uslot, part, id, user, session, room, r.epoch)
      say(reply, id, what, r.epoch, "0", text, named)
    end
  end
  -- Announce, before the record forgets which node to tell.
  if s.node ~= "" then
    order(control, user, s.node, "4510", session, generation)
  end
  s.generation, s.node, s.deadline = generation, node, ""
  call("HSET", user_key, "s:" .. session, session_value(s))
  later("SADD", key(uslot, "nodesessions", node), session .. NUL .. user)
end

-- resume gives what is answered for one session.
local function resume(user, uslot, session, valid_until, named)
  if late(now_ms, valid_until) then
    return { "late" }
  end
  local user_key = key(uslot, "user", user)
  local fields = call("HGETALL", user_key)
  local s = session_of(fields, session)
  local partition_of = {}
  local reply = { "unknown", "", "0" }
  for id, partition in named:gmatch("([^%z]*)%z([^%z]*)%z") do
    partition_of[id] = partition
  end
  if s and (s.deadline == "" or tonumber(s.deadline) > awake_ms) then
    local generation = number(math.max(tonumber(s.generation) + 1, now_ms))
    reply = { "ok", generation, some_slow and tostring(call("SCARD", key(uslot, "slow", session))) or "0" }
    goes_on = true
    take_over(reply, user, uslot, user_key, session, s, fields, generation, partition_of)
  end
  for id, partition in named:gmatch("([^%z]*)%z([^%z]*)%z") do
    if partition_of[id] then -- seldom
      local part = slot(uslot, partition)
      local what, text = reason(uslot, part, id, user, session, look(part, id), nil)
      say(reply, id, what, "0", "0", text, true)
    end
  end
  return reply
end

local replies = {}
for i = 0, count - 1 do
  replies[i + 1] = resume(ARGV[3 + 5 * i], slot(control, ARGV[4 + 5 * i]), ARGV[5 + 5 * i], ARGV[6 + 5 * i], ARGV[7 + 5 * i])
end
write_later()
if goes_on then
  shows_life(control, node, awake_ms)
end
return count > 1 and replies or replies[1]
