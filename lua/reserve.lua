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
-- Returns  {"ok", ticket}   a ticket that there was already is kept, if it is above.
--                          What others of the user's sessions have reserved of the
--                          room is listed as "held"
--          {"userlimit"}   so many rooms are reserved, all of which are listed: those
--                          that are void are to be given back
--          {"fenced"}      the node has been given up, or the session has moved,
--                          is parked, or has ended
--
-- Publishes  nothing

local user_key, uslot = KEYS[1], KEYS[2]
local user, session, generation, node, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local partition, limit, above = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])

-- Decide.
if dead(uslot, node) or not here(user_key, session, generation, node) then
  return { "fenced" }
end
if partition == "" then
  return { "ok", "0" }
end
local fields, rooms, n = call("HGETALL", user_key), {}, 0
local others = {}
for i = 1, #fields, 2 do
  local other, of = fields[i]:match("^r:([^%z]*)%z(.*)$")
  if other then
    if not rooms[other] then
      rooms[other], n = true, n + 1
    end
    if other ~= id or of ~= session then
      local s = session_record(call("HGET", user_key, "s:" .. of))
      local ticket = fields[i + 1]:match("^%d+%z(%d+)$")
      others[#others + 1] = { id = other, session = of, ticket = ticket, node = s and s.node or "" }
    end
  end
end
local full = limit > 0 and n >= limit and not rooms[id]
for _, r in ipairs(others) do
  if full or r.id == id then
    list("held", user, r.session, r.id, r.ticket, r.node, "")
  end
end
if full then
  return { "userlimit" }
end

-- Apply.
local ticket = reservation(user_key, session, id)
if not ticket or tonumber(ticket) <= above then
  ticket = reserve(user_key, session, id, partition, above)
end
return { "ok", ticket }
