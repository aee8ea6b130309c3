-- changeattributes.lua sets and deletes attributes of a room, in the order given and
-- as one change: setRoomAttributes, deleteRoomAttributes and batchRoomAttributes.
-- Keys that belong to others are left as they are, unless forced; a limit refuses
-- everything.
--
-- Uses     value clock limits room log request attributes
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
--
-- ARGV[1]   room
-- ARGV[2]   user
-- ARGV[3]   session
-- ARGV[4]   generation
-- ARGV[5]   request_key   "" for none
-- ARGV[6]   did_ttl       ms
-- ARGV[7]   log_size      events
-- ARGV[8]   log_bytes
-- ARGV[9]   log_ttl       ms
-- ARGV[10]  force         "1": keys of others, too
-- ARGV[11]  update_owner  "1": the user owns from now on what it sets
-- ARGV[12]  leaves        "1": what it sets goes with its owner
-- ARGV[13]  max_keys
-- ARGV[14]  max_bytes     of keys and values
-- ARGV[15]  count         of operations; three arguments each follow
-- ARGV[16]  action, key, value, …  "set", or "delete" and ""
--
-- Returns  {"ok", epoch, seq, key, …}  after the change, with the keys that were
--                       left as they are; nothing happened if there was nothing
--                       to change
--          {"again", …} the same, of an earlier call under this request_key
--          {"noroom"}
--          {"notin"}    the session is not in the room
--          {"misused"}  the request_key was another request's
--          {"fenced"}   the session has moved to another connection, or is parked
--          {"locked"}   every key belongs to another
--          {"keys", n}  there would be n keys, more than max_keys
--          {"bytes", n} there would be n bytes, more than max_bytes
--
-- Publishes  "a"

local part = KEYS[1]
local id, user, session, generation, request_key, did_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local limits = { size = tonumber(ARGV[7]), bytes = tonumber(ARGV[8]), ttl = tonumber(ARGV[9]) }
local force, update_owner, leaves = ARGV[10] == "1", ARGV[11] == "1", ARGV[12]
local max_keys, max_bytes = tonumber(ARGV[13]), tonumber(ARGV[14])

-- Decide.
local before, misused, did_at = outcome(part, session, request_key, "attributes", id)
if misused then
  return { "misused" }
end
if before then
  local epoch, seq, refused = before:match("^(%d+)%z(%d+)%z(.*)$")
  return { "again", epoch, seq, unpack(texts_of(refused)) }
end
local now_ms, now_us = now()
local head = call("HMGET", part .. "room:" .. id, "epoch", "seq", "term", "deadline")
-- Here act
local room = { epoch = head[1], seq = tonumber(head[2]) }
local had, has, keys, bytes = {}, {}, 0, 0
local attrs = key(part, "attrs", id)
local fields = call("HGETALL", attrs)
for i = 1, #fields, 2 do
  local a = attribute(fields[i + 1])
  had[fields[i]], has[fields[i]] = a, a
  keys, bytes = keys + 1, bytes + #fields[i] + #a.value
end
local keys_before, bytes_before = keys, bytes
local named, refused = {}, {} -- each key once, in the order that they come
local state = {}              -- by key: "refused", or "changed"
for i = 1, tonumber(ARGV[15]) do
  local action, k, value = ARGV[13 + 3 * i], ARGV[14 + 3 * i], ARGV[15 + 3 * i]
  local a = has[k]
  if not state[k] then
    state[k], named[#named + 1] = "named", k
  end
  if a and a.owner ~= user and not force then
    if state[k] == "named" then
      state[k], refused[#refused + 1] = "refused", k
    end
  else
    state[k] = "changed"
    if a then
      keys, bytes, has[k] = keys - 1, bytes - #k - #a.value, nil
    end
    if action == "set" then
      keys, bytes = keys + 1, bytes + #k + #value
      has[k] = { owner = a and not update_owner and a.owner or user, leaves = leaves, value = value }
    end
  end
end
if #named > 0 and #refused == #named then
  return { "locked" }
end
if keys > max_keys and keys > keys_before then
  return { "keys", number(keys) }
end
if bytes > max_bytes and bytes > bytes_before then
  return { "bytes", number(bytes) }
end
local set, deleted = {}, {}
for _, k in ipairs(named) do
  if state[k] == "changed" and has[k] then
    set[#set + 1] = k
    set[#set + 1] = attribute_value(has[k])
  elseif state[k] == "changed" and had[k] then
    deleted[#deleted + 1] = k
  end
end
if #set + #deleted == 0 then
  return { "ok", room.epoch, number(room.seq), unpack(refused) }
end

-- Apply and announce.
changed_attributes(part, id, room, session, user, set, deleted, now_ms, limits)
remember(part, session, request_key, "attributes", id,
  room.epoch .. NUL .. number(room.seq) .. NUL .. list_of(refused), did_ttl, did_at, now_ms, now_us)
return { "ok", room.epoch, number(room.seq), unpack(refused) }
