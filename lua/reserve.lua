-- reserve.lua begins what a session does to get into a room that is in another
-- hash slot: it has to have a reservation there first (docs/cluster.md).
--
-- Uses     value clock session apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]  user
-- ARGV[2]  session
-- ARGV[3]  generation
-- ARGV[4]  node
-- ARGV[5]  room
-- ARGV[6]  number_of_partition  of the room; "" only to ask whether the session acts
-- ARGV[7]  limit  of rooms one user is in; 0 for none
-- ARGV[8]  above  a ticket that the reservation's has to be above
--
-- Returns  {"ok", ticket}  a ticket that there was already is kept, if it is above
--          {"userlimit", …}  so many rooms are reserved; what is not in use of those
--                         listed, as "held", is to be given back
--          {"fenced"}     the node has been given up, or the session has moved,
--                         is parked, or has ended
--
-- Publishes  nothing

local user_key, uslot = KEYS[1], KEYS[2]
local user, session, generation, node, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local partition, limit, above = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])

-- Decide.
local s = session_record(call("HGET", user_key, "s:" .. session))
if dead(uslot, node) or not s or s.generation ~= generation or s.deadline ~= "" or s.node ~= node then
  return { "fenced" }
end
if partition == "" then
  return { "ok", "0" }
end
local field = "r:" .. id .. NUL .. session
local before = (call("HGET", user_key, field) or ""):match("^%d+%z(%d+)$")
if before and tonumber(before) > above then
  return { "ok", before }
end
if limit > 0 and call("HLEN", user_key) - 1 >= limit then
  local fields, rooms, n = call("HGETALL", user_key), {}, 0
  for i = 1, #fields, 2 do
    local other, of = fields[i]:match("^r:([^%z]*)%z(.*)$")
    if other then
      if not rooms[other] then
        rooms[other], n = true, n + 1
      end
      if other ~= id then
        list("held", user, of, other, fields[i + 1]:match("^%d+%z(%d+)$"), "")
      end
    end
  end
  if n >= limit and not rooms[id] then
    return { "userlimit" }
  end
end

-- Apply. A caller that asks for a place has none to look at.
LISTED = {}
local _, now_us = now()
local ticket = number(math.max(now_us, above + 1))
call("HSET", user_key, field, partition .. NUL .. ticket)
return { "ok", ticket }
