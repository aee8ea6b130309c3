-- memberattributes.lua sets attributes of members of a room: each of the users gets
-- the same. What cannot be set for one of them keeps nothing from the others.
--
-- Uses     value clock limits room log request attributes
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]   room
-- ARGV[2]   user          who sets them
-- ARGV[3]   session
-- ARGV[4]   generation
-- ARGV[5]   request_key   "" for none
-- ARGV[6]   did_ttl       ms
-- ARGV[7]   log_size      events
-- ARGV[8]   log_bytes
-- ARGV[9]   log_ttl       ms
-- ARGV[10]  leaves        "1": what is set goes with the member
-- ARGV[11]  max_users     of the room that have attributes
-- ARGV[12]  max_pairs     of one user
-- ARGV[13]  max_bytes     of one user, keys and values
-- ARGV[14]  attributes    list of keys and values
-- ARGV[15]  count         of the users; they follow
-- ARGV[16]  user, …
--
-- Returns  {"ok", epoch, seq, user, verdict, keys, key, …, user, …}  after the change:
--                        for each user "set", with the keys that would be too many
--                        or too long for it; "notin"; or "users", for whom the room
--                        has too many with attributes already
--          {"again", …}  the same, of an earlier call under this request_key
--          {"noroom"}
--          {"notin"}     the session is not in the room
--          {"misused"}   the request_key was another request's
--          {"fenced"}    the session has moved to another connection, or is parked
--          {"users"}     nothing can be set: max_users
--          {"pairs"}     likewise: max_pairs
--          {"bytes"}     likewise: max_bytes
--
-- Publishes  "u"

local part = KEYS[1]
local id, user, session, generation, request_key, did_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local limits = { size = tonumber(ARGV[7]), bytes = tonumber(ARGV[8]), ttl = tonumber(ARGV[9]) }
local leaves, max_users, max_pairs, max_bytes = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local given, count = texts_of(ARGV[14]), tonumber(ARGV[15])

-- Decide.
local before, misused, did_at = outcome(part, session, request_key, "members", id)
if misused then
  return { "misused" }
end
if before then
  local epoch, seq, verdicts = before:match("^(%d+)%z(%d+)%z(.*)$")
  return { "again", epoch, seq, unpack(texts_of(verdicts)) }
end
local now_ms, now_us = now()
local head = call("HMGET", part .. "room:" .. id, "epoch", "seq", "term", "deadline", "logbytes")
-- Here act
local room = { epoch = head[1], seq = tonumber(head[2]) }
local of_members = key(part, "memberattrs", id)
local users = call("HLEN", of_members)
local verdicts, announced, stored, why = {}, {}, {}, nil
local function say(text)
  verdicts[#verdicts + 1] = text
end
for i = 1, count do
  local of = ARGV[15 + i]
  local old = call("HGET", of_members, of)
  say(of)
  if call("HEXISTS", key(part, "info", id), of) == 0 then
    say("notin")
    say("0")
  elseif not old and users >= max_users then
    say("users")
    say("0")
    why = why or "users"
  else
    local texts = texts_of(old or "")
    local at, bytes = {}, 0
    for j = 1, #texts, 2 do
      at[texts[j]] = j
      bytes = bytes + #texts[j] + #texts[j + 1] - 1
    end
    local set, refused = {}, {}
    for j = 1, #given, 2 do
      local k, value = given[j], given[j + 1]
      local where = at[k]
      local size = bytes + #value + (where and 1 - #texts[where + 1] or #k)
      if not where and #texts >= 2 * max_pairs then
        refused[#refused + 1], why = k, why or "pairs"
      elseif size > max_bytes and size > bytes then
        refused[#refused + 1], why = k, why or "bytes"
      else
        where = where or #texts + 1
        at[k], texts[where], texts[where + 1], bytes = where, k, leaves .. value, size
        set[#set + 1] = k
        set[#set + 1] = value
      end
    end
    say("set")
    say(number(#refused))
    for _, k in ipairs(refused) do
      say(k)
    end
    if #set > 0 then
      announced[#announced + 1] = of
      announced[#announced + 1] = number(#set / 2)
      for _, text in ipairs(set) do
        announced[#announced + 1] = text
      end
      stored[#stored + 1] = of
      stored[#stored + 1] = list_of(texts)
      users = users + (old and 0 or 1)
    end
  end
end
if #stored == 0 and why == "users" then
  return { "users" }
elseif #stored == 0 and why == "pairs" then
  return { "pairs" }
elseif #stored == 0 and why then
  return { "bytes" }
elseif #stored == 0 then
  return { "ok", room.epoch, number(room.seq), unpack(verdicts) }
end

-- Apply. The first write needs memory, so that a full Redis refuses all of it.
local seq = room.seq + 1
local message = event(room.epoch, number(seq), "u", number(now_ms), session, user,
  number(call("ZCARD", key(part, "members", id))), "", list_of(announced))
local room_key = key(part, "room", id)
local bytes = append(part, id, message, now_us, nil, head[5] or 0, limits.size, limits.bytes, limits.ttl)
call("HSET", room_key, "seq", number(seq), "logbytes", bytes)
if leaves == "1" then
  call("HSET", room_key, "bequests", "1")
end
for i = 1, #stored, 2 do
  call("HSET", of_members, stored[i], stored[i + 1])
end
remember(part, session, request_key, "members", id,
  room.epoch .. NUL .. number(seq) .. NUL .. list_of(verdicts), did_ttl, did_at, now_ms, now_us)

-- Announce.
publish(part, id, message)
return { "ok", room.epoch, number(seq), unpack(verdicts) }
