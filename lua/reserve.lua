-- reserve.lua begins what a session does to get into a room that is in another
-- hash slot: it has to have a reservation there first (docs/cluster.md).
--
-- Uses     value clock session apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
--
-- ARGV[1]   user
-- ARGV[2]   session
-- ARGV[3]   generation
-- ARGV[4]   node
-- ARGV[5]   room
-- ARGV[6]   number_of_partition  of the room; "" only to ask whether the session acts
-- ARGV[7]   limit  of rooms one user is in; 0 for none
-- ARGV[8]   above  a ticket that the reservation's has to be above
-- ARGV[9]   from_room    that the session switches from, in another slot; "" for none
-- ARGV[10]  request_key  of that switch
-- ARGV[11]  finish_ms    after which others finish it
--
-- Returns  {"ok", ticket, from_ticket}  a ticket that there was already is kept, if it
--                          is above. from_ticket is that for from_room, "0" for none.
--                          What others of the user's sessions have reserved of the
--                          room is listed as "held"; or, if only asked, a switch to
--                          it that is under way as "switch"
--          {"userlimit"}   so many rooms are reserved, all of which are listed: those
--                          that are void are to be given back
--          {"held"}        a switch to the room is under way, and listed, as "switch"
--          {"fenced"}      the node has been given up, or the session has moved,
--                          is parked, or has ended
--
-- Publishes  nothing

local user_key, uslot = KEYS[1], KEYS[2]
local user, session, generation, node, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local partition, limit, above = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local from_id, request_key, finish_ms = ARGV[9], ARGV[10], tonumber(ARGV[11])

-- Decide.
if dead(uslot, node) or not here(user_key, session, generation, node) then
  return { "fenced" }
end
local from_ticket = from_id ~= "" and reservation(user_key, session, from_id) or "0"
if partition == "" then
  list_switches(call("HGETALL", user_key), user, session, id)
  return { "ok", "0", from_ticket }
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

local under_way = call("HGET", user_key, "w:" .. id .. NUL .. session)
if under_way then
  local of, old_key = under_way:match("^%d+%z([^%z]*)%z%d+%z(.*)$")
  if of ~= from_id or old_key ~= request_key then
    list_switches(fields, user, session, id)
    return { "held" }
  end
end

-- Apply.
local ticket = reservation(user_key, session, id)
if not ticket or tonumber(ticket) <= above then
  ticket = reserve(user_key, session, id, partition, above)
end
if from_id ~= "" then
  call("HSET", user_key, "w:" .. id .. NUL .. session, table.concat({ ticket, from_id, from_ticket, request_key }, NUL))
  call("ZADD", uslot .. "switching", number(awake(uslot, (now())) + finish_ms), session .. NUL .. user .. NUL .. id)
end
return { "ok", ticket, from_ticket }
