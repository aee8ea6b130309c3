-- retake.lua takes a session's place in a room over for a new connection, or says
-- why there is none: the room's half of resume.
--
-- Uses     value clock session limits room apart why
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  user
-- ARGV[3]  session
-- ARGV[4]  node
-- ARGV[5]  generation
-- ARGV[6]  ticket    of the reservation, "" if there is none and the client named the room
-- ARGV[7]  before    the node that had the session
-- ARGV[8]  over      why the session is over, "" if it is not
-- ARGV[9]  gone_ttl  ms
--
-- Returns  {"ok", what, epoch, seq, text}  as resume has it of a room; if it is not
--                     "in", a reservation is void and may be taken back
--          {"fenced"}  the node has been given up
--
-- Publishes  nothing

local part, id, user, session, node = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local generation, ticket, before, over, gone_ttl = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]

-- Decide.
if dead(part, node) then
  return { "fenced" }
end
local room = load(part, id, (now()))
local info = key(part, "info", id)
local m = room and membership(call("HGET", info, user))
if ticket == "" or not m or m.session ~= session then
  if ticket ~= "" then
    give_back(part, id, user, session, ticket, before, m, gone_ttl)
  end
  local what, text = why(part, id, user, session, room, nil)
  if what == "kept" then
    what = over == "replaced" and "replaced" or "timeout"
  end
  return { "ok", what, "0", "0", text }
end

-- Apply. A later connection may have been here before.
if tonumber(m.generation) < tonumber(generation) then
  if m.node == "" then
    call("ZREM", part .. "parked", session .. NUL .. user .. NUL .. id)
  elseif m.node ~= node then
    call("SREM", key(part, "node", m.node), user .. NUL .. id)
  end
  m.node, m.generation = node, generation
  call("HSET", info, user, membership_value(m))
  call("SADD", key(part, "node", node), user .. NUL .. id)
end
local entered = number(tonumber(call("ZSCORE", key(part, "members", id), user)))
return { "ok", "in", room.epoch, number(room.seq), room.delay .. NUL .. entered .. NUL .. room.name }
