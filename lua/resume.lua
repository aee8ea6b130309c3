-- resume.lua moves a session to a new connection, on this node or another, with
-- all the rooms it is in, and says of every room the client named what became
-- of it. An earlier connection of the session is fenced off and told to close.
--
-- Uses     value clock session place limits room why
--
-- KEYS[1]  user     hash    the user's sessions and rooms
-- KEYS[2]  uslot    prefix  of the keys in the user's slot
-- KEYS[3]  control  prefix  of clock and dead
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  node
-- ARGV[4]  valid_until  Redis's time in ms, "" for ever
-- ARGV[5]  count  of the rooms the client named; two arguments each follow
-- ARGV[6]  room, partition, …
--
-- Returns  {"ok", generation, slow, …}  the session goes on; slow is how many of
--                                 its connections were cut off lately since the
--                                 client read too slowly; six values a room follow
--          {"unknown", "", "0", …}  it does not, or no more; likewise
--          {"fenced"}             the node has been given up
--          {"late"}               the call came after valid_until
--          A room's six: id, what, epoch, seq, text, named ("1" or "0").
--          what is "in" (epoch and seq are the room's position now, text is
--          "delay NUL entry seq NUL name"), or why the session is not in it:
--          "noroom", "recreated", "device", "replaced" if the place is kept
--          for the next session of the device, or a reason kept by depart,
--          with its extended data as text.
--
-- Publishes  an order to close on the channel of the node that had the session

local user_key, uslot, control = KEYS[1], KEYS[2], KEYS[3]
local user, session, node, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])

-- Decide.
if dead(control, node) then
  return { "fenced" }
end
local now_ms = now()
if late(now_ms, ARGV[4]) then
  return { "late" }
end
local s = session_record(call("HGET", user_key, "s:" .. session))
local goes_on = s and (s.deadline == "" or tonumber(s.deadline) > awake(control, now_ms))
local reply = { "unknown", "", "0" }

-- reason is why, with what the user's slot knows of it.
local function reason(part, id, room, epoch)
  local what, text = why(part, id, user, session, room, epoch)
  if what == "kept" then
    what = call("HGET", key(uslot, "gone", session), "") == "replaced" and "replaced" or "timeout"
  end
  return what, text
end

local function say(id, what, epoch, seq, text, named)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = id, what, epoch
  reply[n + 4], reply[n + 5], reply[n + 6] = seq, text, named and "1" or "0"
end

local named = {}
for i = 1, count do
  named[ARGV[4 + 2 * i]] = ARGV[5 + 2 * i]
end

-- Apply.
local seen = {}
if goes_on then
  local generation = number(math.max(tonumber(s.generation) + 1, now_ms))
  reply = { "ok", generation, tostring(call("SCARD", key(uslot, "slow", session))) }
  if s.node ~= "" then
    call("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
  end
  if s.deadline ~= "" then
    call("ZREM", uslot .. "parked", session .. NUL .. user)
  end
  for _, r in ipairs(rooms_of(call("HGETALL", user_key), session)) do
    local part = slot(uslot, r.partition)
    local room = load(part, r.id, now_ms)
    local info = key(part, "info", r.id)
    local m = room and membership(call("HGET", info, user))
    seen[r.id] = true
    if m and m.session == session then
      if m.node == "" then
        call("ZREM", part .. "parked", session .. NUL .. user .. NUL .. r.id)
      elseif m.node ~= node then
        call("SREM", key(part, "node", m.node), user .. NUL .. r.id)
      end
      m.node, m.generation = node, generation
      call("HSET", info, user, membership_value(m))
      call("SADD", key(part, "node", node), user .. NUL .. r.id)
      local entered = number(tonumber(call("ZSCORE", key(part, "members", r.id), user)))
      say(r.id, "in", room.epoch, number(room.seq),
        room.delay .. NUL .. entered .. NUL .. room.name, named[r.id])
    else
      void(part, r.id, user_key, user, session, s.node)
      local what, text = reason(part, r.id, room, r.epoch)
      say(r.id, what, r.epoch, "0", text, named[r.id])
    end
  end
  -- Announce, before the record forgets which node to tell.
  if s.node ~= "" then
    order(control, s.node, "4510", session, generation)
  end
  s.generation, s.node, s.deadline = generation, node, ""
  call("HSET", user_key, "s:" .. session, session_value(s))
  call("SADD", key(uslot, "nodesessions", node), session .. NUL .. user)
  shows_life(control, node, awake(control, now_ms))
end

for i = 1, count do
  local id, partition = ARGV[4 + 2 * i], ARGV[5 + 2 * i]
  if not seen[id] then
    local part = slot(uslot, partition)
    local what, text = reason(part, id, load(part, id, now_ms), nil)
    say(id, what, "0", "0", text, true)
  end
end
return reply
