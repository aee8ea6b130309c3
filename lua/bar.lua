-- bar.lua looks whether rooms that had been admitted are there. Where there is none,
-- none begins with that ticket or an older one any more.
--
-- Uses     value clock admission room
--
-- KEYS[1]  partition  prefix  of the rooms' partition
--
-- ARGV[1]  count  of the rooms; two arguments each follow
-- ARGV[2]  room, ticket, …
--
-- Returns  {"ok", there, …}  "1" for a room that exists, else "0"
--
-- Publishes  nothing

local part, count = KEYS[1], tonumber(ARGV[1])

local now_ms = now()
local reply = { "ok" }
for i = 0, count - 1 do
  local id, ticket = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  if not load(part, id, now_ms) then
    bar_ticket(part, id, ticket)
    reply[2 + i] = "0"
  else
    -- Its end has to give back this place.
    if tonumber(admission_of(part, id) or 0) < tonumber(ticket) then
      call("HSET", key(part, "room", id), "admitted", ticket)
    end
    reply[2 + i] = "1"
  end
end
return reply
