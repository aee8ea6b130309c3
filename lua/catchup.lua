-- catchup.lua gives what happened in a room after a position, as far as it is
-- kept: events from the log, entries and departures from members and left.
--
-- Uses     value clock limits room
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]  room
-- ARGV[2]  epoch  of the position
-- ARGV[3]  after  its seq
-- ARGV[4]  limit  of entries and of departures; the newest are given
--
-- Returns  {"ok", epoch, seq, base, from, count, events, event, …, entries, seq,
--          user, session, data, …, departures, seq, entered, user, session,
--          reason, "data NUL extended", …, attributes, key, field, …}  each part
--                                led by how many it has; count is that of the
--                                members now; base and from as in lives
--          {"epoch", epoch, seq, base, from}  the room is in another epoch
--          {"noroom"}

local part, id, epoch, after, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local now_ms = now()
local room = load(part, id, now_ms)
if not room then
  return { "noroom" }
end
local base, from = healing(part, id, room)
if room.epoch ~= epoch then
  return { "epoch", room.epoch, number(room.seq), base, from }
end
local members = key(part, "members", id)
local reply = { "ok", room.epoch, number(room.seq), base, from, number(call("ZCARD", members)), "0" }
local function put(value)
  reply[#reply + 1] = value
end

local log = call("LRANGE", key(part, "log", id), 0, -1)
local events = 0
for i = 1, #log do
  if tonumber(log[i]:match("^[^%z]*%z(%d+)")) > after then
    put(log[i])
    events = events + 1
  end
end
reply[7] = number(events)

local entries = call("ZREVRANGEBYSCORE", members, "+inf", "(" .. number(after), "WITHSCORES", "LIMIT", 0, limit)
put(number(#entries / 2))
for i = #entries - 1, 1, -2 do
  local m = membership(call("HGET", key(part, "info", id), entries[i]))
  put(number(tonumber(entries[i + 1])))
  put(entries[i])
  put(m.session)
  put(m.data)
end

local left = call("ZREVRANGEBYSCORE", key(part, "left", id), "+inf", "(" .. number(after), "WITHSCORES", "LIMIT", 0, limit)
put(number(#left / 2))
for i = #left - 1, 1, -2 do
  local user, entered, session, reason, payload = left[i]:match("^([^%z]*)%z(%d+)%z([^%z]*)%z([^%z]*)%z(.*)$")
  put(number(tonumber(left[i + 1])))
  put(entered)
  put(user)
  put(session)
  put(reason)
  put(payload)
end

local attrs = key(part, "attrs", id)
local attributes = call("HGETALL", attrs)
put(number(#attributes / 2))
for i = 1, #attributes do
  put(attributes[i])
end
return reply
