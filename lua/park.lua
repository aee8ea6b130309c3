-- park.lua notes that the sockets of sessions are closed: their memberships and
-- they themselves last until their deadline. Nothing else is decided here; only
-- the sweep evicts. Several calls may go together.
--
-- Uses     value clock session together place
--
-- KEYS[1]  control  prefix  of clock
--
-- ARGV[1]  count  of the sessions
-- ARGV[2]  user, user_slot, session, generation, left_ms, node, slow_ttl, …
--            user_slot is where the user's hash lives
--            left_ms is what is left until the deadline
--            slow_ttl is for how many ms it is remembered that the client was cut
--            off since it reads too slowly; 0 if it was not
--
-- Returns  {"ok", deadline}  on the awake clock, in ms
--          {"fenced"}        the session has moved to another connection, is
--                            parked already, or has ended. Of one parked under this
--                            generation the indexes are written again
--          Of several sessions: a list of these.
--
-- Publishes  nothing: the others see no change

local control, count = KEYS[1], tonumber(ARGV[1])
local awake_ms = awake(control, (now()))
make_room(control)

-- was_slow counts the connections of a session that were cut off lately; a
-- repeat of a call does not count.
local function was_slow(uslot, session, generation, slow_ttl)
  local slow = key(uslot, "slow", session)
  if slow_ttl > 0 and call("SADD", slow, generation) == 1 and call("SCARD", slow) == 1 then
    call("PEXPIRE", slow, slow_ttl)
  end
end

-- park gives what is answered for one session.
local function park(user, uslot, session, generation, left_ms, node, slow_ttl)
  -- Decide.
  local user_key = key(uslot, "user", user)
  local fields = call("HGETALL", user_key)
  local s = session_of(fields, session)
  if s then
    was_slow(uslot, session, generation, slow_ttl) -- also one that did not wait before it came back
  end
  if not s or s.generation ~= generation or s.deadline ~= "" then
    if s and s.generation == generation then
      -- The call before may have failed at another session, before it wrote the indexes.
      later("SREM", key(uslot, "nodesessions", node), session .. NUL .. user)
      later("ZADD", uslot .. "parked", s.deadline, session .. NUL .. user)
      park_rest(uslot, fields, user, session, s, node)
    end
    return { "fenced" }
  end

  -- Apply.
  local deadline = number(awake_ms + left_ms)
  park_rooms(uslot, user_key, fields, user, session, s.node, deadline)
  later("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
  later("ZADD", uslot .. "parked", deadline, session .. NUL .. user)
  s.node, s.deadline = "", deadline
  call("HSET", user_key, "s:" .. session, session_value(s))
  return { "ok", deadline }
end

local replies = {}
for i = 0, count - 1 do
  replies[i + 1] = park(ARGV[2 + 7 * i], slot(control, ARGV[3 + 7 * i]), ARGV[4 + 7 * i], ARGV[5 + 7 * i],
    tonumber(ARGV[6 + 7 * i]), ARGV[7 + 7 * i], tonumber(ARGV[8 + 7 * i]))
end
write_later()
return count > 1 and replies or replies[1]
