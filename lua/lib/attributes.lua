-- attributes.lua: what a room and its members have attached to them. The values may
-- contain anything, so lists of them are texts with their lengths.

-- texts_of reads a list: "length:text" each.
local function texts_of(list)
  local texts, at = {}, 1
  while at <= #list do
    local length, first = list:match("^(%d+):()", at)
    texts[#texts + 1] = list:sub(first, first + length - 1)
    at = first + length
  end
  return texts
end

-- list_of is texts_of backwards.
local function list_of(texts)
  local parts = {}
  for i = 1, #texts do
    parts[2 * i - 1], parts[2 * i] = #texts[i] .. ":", texts[i]
  end
  return table.concat(parts)
end

-- attribute reads a field of attrs: leaves is "1" if it goes with its owner.
local function attribute(value)
  local owner, leaves, text = value:match("^([^%z]*)%z(%d)%z(.*)$")
  return { owner = owner, leaves = leaves, value = text }
end

local function attribute_value(a)
  return a.owner .. NUL .. a.leaves .. NUL .. a.value
end

-- changed_attributes keeps and announces that attributes were changed: set is a list of
-- keys and what is stored of them, deleted one of keys. origin is the session that did
-- it, "" if it came about otherwise; user is whose doing it was.
local function changed_attributes(part, id, room, origin, user, set, deleted, now_ms, limits)
  local seq = room.seq + 1
  local all = {}
  for i = 1, #set do
    all[i] = set[i]
  end
  for i = 1, #deleted do
    all[#set + i] = deleted[i]
  end
  local message = event(room.epoch, number(seq), "a", number(now_ms), origin, user, number(#set / 2), "", list_of(all))
  -- A first write that needs memory, so that a full Redis refuses all of it.
  local room_key, attrs = key(part, "room", id), key(part, "attrs", id)
  local bytes = append(part, id, message, now_ms * 1000, nil, call("HGET", room_key, "logbytes") or 0,
    tonumber(limits.size), tonumber(limits.bytes), limits.ttl)
  call("HSET", room_key, "seq", number(seq), "logbytes", bytes)
  room.seq = seq
  if #set > 0 then
    call("HSET", room_key, "attrs", "1")
  end
  for i = 1, #set, 2 do
    call("HSET", attrs, set[i], set[i + 1])
    if attribute(set[i + 1]).leaves == "1" then
      call("HSET", room_key, "bequests", "1")
    end
  end
  if #deleted > 0 then
    call("HDEL", attrs, unpack(deleted))
  end
  publish(part, id, message)
end

-- bequeath_room deletes the attributes of a room that go with an owner who has left,
-- and announces it: with user, or with nil whoever is not in the room.
local function bequeath_room(part, id, room, user, now_ms, limits)
  local attrs, deleted = key(part, "attrs", id), {}
  local fields = call("HGETALL", attrs)
  for i = 1, #fields, 2 do
    local a = attribute(fields[i + 1])
    local gone = a.leaves == "1" and a.owner == user
    if a.leaves == "1" and not user then
      gone = call("HEXISTS", key(part, "info", id), a.owner) == 0
    end
    if gone then
      deleted[#deleted + 1] = fields[i]
    end
  end
  if #deleted > 0 then
    table.sort(deleted)
    changed_attributes(part, id, room, "", user or "", {}, deleted, now_ms, limits)
  end
end

-- bequeath deletes what goes with a user who has left. Those of a member go with the
-- member.
local function bequeath(part, id, room, user, now_ms, limits)
  bequeath_room(part, id, room, user, now_ms, limits)
  local of_members = key(part, "memberattrs", id)
  local mine = call("HGET", of_members, user)
  if not mine then
    return
  end
  local texts, kept = texts_of(mine), {}
  for i = 1, #texts, 2 do
    if texts[i + 1]:sub(1, 1) == "0" then
      kept[#kept + 1], kept[#kept + 2] = texts[i], texts[i + 1]
    end
  end
  if #kept == 0 then
    call("HDEL", of_members, user)
  elseif #kept < #texts then
    call("HSET", of_members, user, list_of(kept))
  end
end
