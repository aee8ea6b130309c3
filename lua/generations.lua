-- generations.lua compares a node's sessions with what is stored, for a node
-- that may have missed an order.
--
-- Uses     value
--
-- KEYS[1]  control  prefix  of clock
--
-- ARGV[1]  node
-- ARGV[2]  count  of the sessions; four arguments each follow
-- ARGV[3]  user, user_slot, session, generation, …
--            user_slot is where the user's hash lives
--
-- Returns  {"ok", session, what, …}  those that are not this node's any more
--                                    under the generation given: "moved" to
--                                    another connection, "parked", "replaced"
--                                    by its device, "kicked" as one too many,
--                                    or "over"

local control, node, count = KEYS[1], ARGV[1], tonumber(ARGV[2])

local reply = { "ok" }
for i = 0, count - 1 do
  local user, uslot = ARGV[3 + 4 * i], slot(control, ARGV[4 + 4 * i])
  local session, generation = ARGV[5 + 4 * i], ARGV[6 + 4 * i]
  local s = session_record(call("HGET", key(uslot, "user", user), "s:" .. session))
  local what
  if not s then
    what = call("HGET", key(uslot, "gone", session), "") or "over"
  elseif s.generation ~= generation then
    what = "moved"
  elseif s.node ~= node then
    what = "parked"
  end
  if what then
    reply[#reply + 1] = session
    reply[#reply + 1] = what
  end
end
return reply
