-- reclaim.lua puts back a node's lease and the sessions whose sockets it has,
-- where Redis has lost them or has them as they once were.
--
-- Unguarded  it takes the term that the gateway is about to act under
--
-- Uses     value clock session place term
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease, awake ms;
--                           or as control, where the lease is seen to elsewhere
-- KEYS[2]  control  prefix  of clock and dead
-- KEYS[3]  term     string
--
-- ARGV[1]  now_term   the term
-- ARGV[2]  node
-- ARGV[3]  lease_ttl  ms
-- ARGV[4]  count      of the sessions; six arguments each follow
-- ARGV[5]  user, session, generation, user_slot, device, rooms, …  rooms that it
--          may be in, as far as the node knows, each with NUL behind it
--
-- Returns  {"ok", session, what, room, …}  three values each: what is "stray" for
--                      a room that the session is in and the node does not know of.
--                      Otherwise the session is not put back, since it has "moved"
--                      to another connection, was "replaced" by its device, or
--                      "kicked" as one too many
--          {"term"}    the term is another
--          {"fenced"}  the node has been given up

local nodes, control, term_key = KEYS[1], KEYS[2], KEYS[3]
local now_term, node, lease_ttl, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- Decide.
local term = read_term(term_key)
if term ~= now_term then
  return { "term" }
end
if dead(control, node) then
  return { "fenced" }
end

-- Apply. The first write frees memory, so that a full Redis takes back what it had.
call("ZREM", nodes, node)
if nodes ~= control then
  call("ZADD", nodes, awake(control, (now())) + lease_ttl, node)
end

-- superseded says whether the session's device has logged in again, in a later ms
-- than the session last went on. What is stored may also be from before.
local function superseded(fields, session, generation, device)
  for i = 1, #fields, 2 do
    local other = fields[i]:match("^s:(.*)$")
    local s = other and other ~= session and device ~= "" and session_record(fields[i + 1])
    if s and s.device == device and tonumber(s.login) >= (tonumber(generation) + 1) * 1000 then
      return true
    end
  end
  return false
end

local reply = { "ok" }
local function say(session, what, room)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = session, what, room
end

for i = 0, count - 1 do
  local user, session, generation = ARGV[5 + 6 * i], ARGV[6 + 6 * i], ARGV[7 + 6 * i]
  local user_slot, device, rooms = ARGV[8 + 6 * i], ARGV[9 + 6 * i], NUL .. ARGV[10 + 6 * i]
  local uslot = slot(control, user_slot)
  local user_key, entry = key(uslot, "user", user), session .. NUL .. user
  local fields = call("HGETALL", user_key)
  local s = session_record(call("HGET", user_key, "s:" .. session))
  local lost
  if s then
    lost = tonumber(s.generation) > tonumber(generation) and "moved"
  else
    lost = call("HGET", key(uslot, "gone", session), "")
      or superseded(fields, session, generation, device) and "replaced"
  end
  if lost then
    say(session, lost, "")
  else
    if s and s.node == "" then
      call("ZREM", uslot .. "parked", entry)
    elseif s and s.node ~= node then
      call("SREM", key(uslot, "nodesessions", s.node), entry)
    end
    call("HSET", user_key, "s:" .. session, session_value({
      generation = generation, node = node, deadline = "", login = s and s.login or generation .. "000", device = device,
    }))
    call("SADD", key(uslot, "nodesessions", node), entry)
    list_rest(fields, user, session, generation, rooms)
    for _, r in ipairs(rooms_here(fields, session)) do
      local part = slot(control, r.partition)
      local m = not rooms:find(NUL .. r.id .. NUL, 1, true) and membership(call("HGET", key(part, "info", r.id), user))
      if m and m.session == session then
        if m.node == "" then
          call("ZREM", part .. "parked", session .. NUL .. user .. NUL .. r.id)
        elseif m.node ~= node then
          call("SREM", key(part, "node", m.node), user .. NUL .. r.id)
        end
        m.node, m.generation = node, generation
        call("HSET", key(part, "info", r.id), user, membership_value(m))
        call("SADD", key(part, "node", node), user .. NUL .. r.id)
        say(session, "stray", r.id)
      end
    end
  end
end
return reply
