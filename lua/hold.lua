-- hold.lua finds or makes the reservation of a member that a gateway puts back,
-- where the room is in another hash slot: heal shows it there.
--
-- Unguarded  it takes the term that the gateway is about to act under
--
-- Uses     value clock session term apart
--
-- KEYS[1]  user   hash    the user's sessions and reservations
-- KEYS[2]  uslot  prefix  of the keys in the user's slot
-- KEYS[3]  term   string
--
-- ARGV[1]  now_term    the term
-- ARGV[2]  session
-- ARGV[3]  generation
-- ARGV[4]  node
-- ARGV[5]  room
-- ARGV[6]  number_of_partition  of the room
-- ARGV[7]  above       a ticket that the reservation's has to be above
--
-- Returns  {"ok", ticket}
--          {"term"}    the term is another
--          {"fenced"}  the node has been given up, or the session is elsewhere
--
-- Publishes  nothing

local user_key, uslot, term_key = KEYS[1], KEYS[2], KEYS[3]
local now_term, session, generation, node, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local partition, above = ARGV[6], tonumber(ARGV[7])

if read_term(term_key) ~= now_term then
  return { "term" }
end
if dead(uslot, node) or not here(user_key, session, generation, node) then
  return { "fenced" }
end
local ticket = reservation(user_key, session, id)
if not ticket or tonumber(ticket) <= above then
  ticket = reserve(user_key, session, id, partition, above)
end
return { "ok", ticket }
