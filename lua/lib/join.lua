-- join.lua: how a room's life begins, and how a membership does.

-- create begins a life of a room. The first write needs memory, so that a full
-- Redis refuses all of it.
local function create(part, control, id, user, config, now_ms, now_us)
  local epoch = number(math.max(now_us, tonumber(call("HGET", control .. "clock", "epoch") or 0) + 1))
  call("HSET", control .. "clock", "epoch", epoch)
  call("UNLINK", unpack(room_keys(part, id)))
  local room_key = key(part, "room", id)
  call("HSET", room_key, "epoch", epoch, "seq", 0, "messageSeq", 0, "name", config.name, "delay", config.delay,
    "created", number(now_ms), "creator", user)
  if TERM ~= "" then
    call("HSET", room_key, "term", TERM)
  end
  if config.keep == "0" then
    call("HSET", room_key, "keep", "0")
  end
  for i = 1, #config.attributes, 2 do
    call("HSET", key(part, "attrs", id), config.attributes[i],
      attribute_value({ owner = user, leaves = "0", value = config.attributes[i + 1] }))
  end
  if call("ZADD", part .. "rooms", 0, id) == 0 then
    end_orphan(part, id, now_ms)
  end
  call("PUBLISH", part .. "life", "created" .. NUL .. epoch .. NUL .. NUL .. id)
  return { epoch = epoch, seq = 0, delay = config.delay, name = config.name, log_bytes = 0 }
end

-- join makes a user a member for the session of mine, a membership, and says
-- so. other is the user's membership for another session, whose place it
-- takes, or nil. name is what a room whose name was dropped when it emptied is
-- called from now on, or nil.
-- Returns the event's seq, the seq of the membership's entry, and the count.
local function join(part, id, room, user_key, user, mine, other, partition, name, limits, gone_ttl, now_ms)
  local members, room_key = key(part, "members", id), key(part, "room", id)
  local seq = call("HINCRBY", room_key, "seq", 1)
  room.seq = seq
  local entered = seq
  if other then
    entered = tonumber(call("ZSCORE", members, user))
    if other.node == "" then
      call("ZREM", part .. "parked", other.session .. NUL .. user .. NUL .. id)
    else
      call("SREM", key(part, "node", other.node), user .. NUL .. id)
    end
  else
    call("ZADD", members, seq, user)
  end
  local place = room.epoch .. NUL .. partition .. NUL .. mine.session
  if call("HSETNX", user_key, "r:" .. id, place) == 0 then
    -- From an earlier life of the room, or the place that is taken.
    local before = user_room(call("HGET", user_key, "r:" .. id))
    if before.session ~= mine.session then
      void_place(part, id, user_key, user, before)
    end
    call("HSET", user_key, "r:" .. id, place)
  end
  call("HSET", key(part, "info", id), user, membership_value(mine))
  call("SADD", key(part, "node", mine.node), user .. NUL .. id)
  if room.deadline then
    call("HDEL", room_key, "deadline")
    call("ZREM", part .. "due", id .. NUL .. room.epoch)
    keep_for(part, id, 0)
    if name and room.name == "" and call("HGET", room_key, "keep") == "0" then
      call("HSET", room_key, "name", name)
      room.name = name
    end
  end
  local count = number(call("ZCARD", members))
  if other then
    local moved = event(room.epoch, seq, "v", now_ms, mine.session, user, count, other.session, mine.data)
    call("HSET", room_key, "logbytes", append(part, id, moved, seq, now_ms, room.log_bytes, limits))
    local gone = key(part, "gone", other.session)
    call("HSET", gone, id, table.concat({ room.epoch, other.generation, "", "device", "" }, NUL))
    call("PEXPIRE", gone, gone_ttl)
    publish(part, id, moved)
  else
    publish(part, id, event(room.epoch, seq, "j", now_ms, mine.session, user, count, "", mine.data))
  end
  return number(seq), number(entered), count
end
