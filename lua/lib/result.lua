-- result.lua: what an entry answers, and what decides whether it may happen
-- beside the room's own rules.

-- result is the answer to an entry: see the headers of enter and switch. with
-- says whether the room has attributes.
local function result(status, part, id, with, epoch, seq, count, created, entered, delay, name)
  local reply = { status, epoch, seq, count, created, entered, delay, name, "0" }
  if with then -- seldom
    local attrs = key(part, "attrs", id)
    local pairs_of = call("HGETALL", attrs)
    reply[9] = tostring(#pairs_of / 2)
    for i = 1, #pairs_of do
      reply[9 + i] = pairs_of[i]
    end
  end
  return reply
end

-- repeated is the answer to the repeat of an entry that was applied. m is the
-- user's membership now, or nil.
local function repeated(before, part, id, m, session)
  local reply = { "again", before:match("^(%d+)%z(%d+)%z(%d+)%z(%d)%z(%d+)%z(%d+)%z(.*)$") }
  local epoch, seq = reply[2], reply[3]
  local room = call("HMGET", key(part, "room", id), "epoch", "attrs")
  if not m or m.session ~= session then
    reply[9] = "-1"
  elseif room[1] ~= epoch or entered_since(part, id, session, epoch, seq) then
    reply[9] = "-2"
  else
    return result("again", part, id, room[2], unpack(reply, 2))
  end
  return reply
end

-- overtaken says whether the session has ended a membership of the room, as
-- gone has it, after the request was made.
local function overtaken(gone, generation, request_key)
  local g, k = gone:match("^[^%z]*%z([^%z]*)%z([^%z]*)%z")
  return tonumber(g) > tonumber(generation)
    or g == generation and request_key ~= "" and k ~= "" and above(k, request_key)
end

-- blocked says whether a user may not enter a room now. 0 is for ever.
local function blocked(part, id, user, now_ms)
  local till = tonumber(call("HGET", key(part, "blocked", id), user) or -1)
  return till == 0 or till > now_ms
end
