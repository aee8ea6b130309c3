-- park.lua notes that a session's socket is closed: its memberships and the
-- session itself last until its deadline. Nothing else is decided here; only
-- the sweep evicts.
--
-- Uses     value clock session place
--
-- KEYS[1]  user     hash    the user's sessions and rooms
-- KEYS[2]  uslot    prefix  of the keys in the user's slot
-- KEYS[3]  control  prefix  of clock
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  generation  "" for any, if the session is on node
-- ARGV[4]  left_ms     until the deadline
-- ARGV[5]  node        used if generation is ""
-- ARGV[6]  slow_ttl    ms that it is remembered that the client was cut off since
--                      it reads too slowly; 0 if it was not
--
-- Returns  {"ok", deadline}  on the awake clock, in ms
--          {"fenced"}        the session has moved to another connection, is
--                            parked already, or has ended
--
-- Publishes  nothing: the others see no change

local user_key, uslot, control = KEYS[1], KEYS[2], KEYS[3]
local user, session, generation, left_ms, node = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local slow_ttl = tonumber(ARGV[6])

-- Decide.
local fields = call("HGETALL", user_key)
local s = session_record(call("HGET", user_key, "s:" .. session))

-- was_slow counts the connections of the session that were cut off lately; a
-- repeat of this call does not count.
local function was_slow()
  local slow = key(uslot, "slow", session)
  if s and slow_ttl > 0 and call("SADD", slow, generation) == 1 and call("SCARD", slow) == 1 then
    call("PEXPIRE", slow, slow_ttl)
  end
end

if not s or s.deadline ~= "" or generation ~= "" and s.generation ~= generation
  or generation == "" and s.node ~= node then
  was_slow() -- also one that did not wait before it came back
  if s and s.deadline ~= "" and s.generation == generation then
    park_rest(fields, user, session, generation)
  end
  return { "fenced" }
end

-- Apply.
local deadline = awake(control, (now())) + left_ms
park_rooms(uslot, user_key, fields, user, session, s.node, deadline)
call("SREM", key(uslot, "nodesessions", s.node), session .. NUL .. user)
call("ZADD", uslot .. "parked", deadline, session .. NUL .. user)
s.node, s.deadline = "", number(deadline)
call("HSET", user_key, "s:" .. session, session_value(s))
was_slow()
return { "ok", s.deadline }
