-- join.lua: how a room's life begins, and how a membership does.

-- create begins a life of a room. The first write needs memory, so that a full
-- Redis refuses all of it.
local function create(part, control, id, user, config, now_ms, now_us)
  local before = call("HMGET", control .. "clock", "epoch", "counted")
  local epoch = number(math.max(now_us, tonumber(before[1] or 0) + 1))
  call("HSET", control .. "clock", "epoch", epoch)
  call("UNLINK", unpack(room_keys(part, id)))
  local room_key = key(part, "room", id)
  call("HSET", room_key, "epoch", epoch, "seq", "0", "term", TERM, "messageSeq", "0", "name", config.name, "delay", config.delay,
    "created", number(now_ms), "creator", user)
  if config.keep == "0" then
    call("HSET", room_key, "keep", "0")
  end
  if #config.attributes > 0 then
    call("HSET", room_key, "attrs", "1")
  end
  for i = 1, #config.attributes, 2 do
    call("HSET", key(part, "attrs", id), config.attributes[i],
      attribute_value({ owner = user, leaves = "0", value = config.attributes[i + 1] }))
  end
  begin_admission(control, room_key, config.admission, before[2])
  if call("ZADD", part .. "rooms", 0, id) == 0 then
    end_orphan(part, id, now_ms)
  end
  call("PUBLISH", part .. "life", "created" .. NUL .. epoch .. NUL .. NUL .. id)
  return { epoch = epoch, seq = 0, delay = config.delay, name = config.name, attrs = #config.attributes > 0 }
end

-- join makes a user a member for the session of mine, a membership, and says
-- so. other is the user's membership for another session, whose place it
-- takes, or nil; limits are those of the log, which then is written to. size is
-- how many members there are before. name is what a room whose name was dropped
-- when it emptied is called from now on, or nil.
-- Returns the event's seq, the seq of the membership's entry, and the count.
local function join(part, id, room, user_key, user, mine, other, size, partition, name, limits, gone_ttl, now_ms)
  local members, room_key = part .. "members:" .. id, part .. "room:" .. id
  room.seq = room.seq + 1
  local seq, at = number(room.seq), number(now_ms)
  local entered, count = seq, number(size + 1)
  mine.joined = other and other.joined or at
  call("HSET", room_key, "seq", seq)
  if other then -- seldom
    entered, count = number(tonumber(call("ZSCORE", members, user))), number(size)
    if other.node == "" then
      call("ZREM", part .. "parked", other.session .. NUL .. user .. NUL .. id)
    else
      call("SREM", key(part, "node", other.node), user .. NUL .. id)
    end
  else
    call("ZADD", members, seq, user)
  end
  take_place(part, id, room, user_key, user, mine, other, partition)
  call("HSET", part .. "info:" .. id, user, membership_value(mine))
  call("SADD", part .. "node:" .. mine.node, user .. NUL .. id)
  if room.deadline then -- seldom
    call("HDEL", room_key, "deadline")
    call("ZREM", part .. "due", id .. NUL .. room.epoch)
    keep_for(part, id, 0)
    if name and call("HDEL", room_key, "dropped") == 1 then
      call("HSET", room_key, "name", name)
      room.name = name
    end
  end
  if other then -- seldom
    local moved = event(room.epoch, seq, "v", at, mine.session, user, count, other.session, mine.data)
    local bytes = call("HGET", room_key, "logbytes") or 0
    call("HSET", room_key, "logbytes", append(part, id, moved, now_ms * 1000, nil, bytes, limits.size, limits.bytes, limits.ttl))
    local gone = key(part, "gone", other.session)
    call("HSET", gone, id, table.concat({ room.epoch, other.generation, "", "device", "" }, NUL))
    call("PEXPIRE", gone, gone_ttl)
    call("PUBLISH", part .. "ch:" .. id, moved)
  else
    call("PUBLISH", part .. "ch:" .. id, event(room.epoch, seq, "j", at, mine.session, user, count, "", mine.data))
  end
  return seq, entered, count
end
