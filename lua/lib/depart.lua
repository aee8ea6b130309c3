-- depart.lua: how a membership ends, whatever ends it, and what an empty room
-- does then.

-- How many departures are kept, and by how many more there may be.
local LEFT_KEPT = 1024
local LEFT_OVER = 64
-- How long the keys of an empty room outlive its deadline where no gateway
-- ever comes back to finish it.
local ORPHAN_MS = 3600 * 1000

-- What an empty room still has, and does not expire by itself.
local LASTING = { "room", "attrs", "memberattrs", "blocked" }

-- keep_for lets an empty room's keys expire by themselves; 0 takes that back.
local function keep_for(part, id, ms)
  for _, kind in ipairs(LASTING) do
    local k = key(part, kind, id)
    if ms > 0 then
      call("PEXPIRE", k, ms)
    else
      call("PERSIST", k)
    end
  end
end

-- end_orphan announces the end of an earlier life of a room, whose keys have
-- expired by themselves, before the next one begins. Beyond the bound it is
-- left to the sweep.
local function end_orphan(part, id, now_ms)
  local due = call("ZRANGEBYSCORE", part .. "due", "-inf", number(now_ms), "LIMIT", 0, 500)
  for i = 1, #due do
    local of, epoch = due[i]:match("^(.-)%z(.*)$")
    if of == id then
      call("ZREM", part .. "due", due[i])
      announce_end(part, id, epoch, "emptied")
      uncount(part)
    end
  end
end

-- expire gives a room with nobody in it a deadline.
local function expire(part, id, room, now_ms, delay_ms)
  room.deadline = number(now_ms + delay_ms)
  call("HSET", key(part, "room", id), "deadline", room.deadline)
  call("ZADD", part .. "due", room.deadline, id .. NUL .. room.epoch)
  keep_for(part, id, delay_ms + ORPHAN_MS)
end

-- emptied applies the emptiness rule: destroyed at once, or after its delay.
local function emptied(part, id, room, now_ms)
  local delay_ms = tonumber(room.delay) * 1000
  if delay_ms == 0 then
    finish(part, id, room, "emptied", now_ms)
    return
  end
  local k = key(part, "room", id)
  if call("HGET", k, "keep") == "0" then
    call("HSET", k, "name", "", "dropped", "1")
    call("HDEL", k, "attrs")
    call("UNLINK", key(part, "attrs", id), key(part, "memberattrs", id))
  end
  expire(part, id, room, now_ms, delay_ms)
end

-- depart takes user, whose membership is m, out of a room and says so; then go
-- the attributes that go with it. What ended it is kept for the session to find when
-- it comes back. The first write frees memory, so that a full Redis lets people go.
-- limits are those of the log, and gone, for how long that is kept: all as text.
-- That there are too many departures, or that they expire too soon, need not be
-- looked at each time: room.left_at and left_seq, if given, say when it was.
-- Returns the event's seq.
local function depart(part, id, room, user_key, user, m, reason, extended, request_key, limits, now_ms)
  local members = part .. "members:" .. id
  local entered = call("ZSCORE", members, user)
  call("ZREM", members, user)
  call("HDEL", part .. "info:" .. id, user)
  if m.node == "" then
    call("ZREM", part .. "parked", m.session .. NUL .. user .. NUL .. id)
  else
    call("SREM", part .. "node:" .. m.node, user .. NUL .. id)
  end
  give_place(part, id, user_key, user, m)

  room.seq = room.seq + 1
  local seq, at, left = number(room.seq), number(now_ms), part .. "left:" .. id
  call("ZADD", left, seq, user .. NUL .. (entered or "0") .. NUL .. m.session .. NUL .. reason .. NUL .. m.data ..
    NUL .. extended)
  local left_at, left_seq = room.left_at, room.left_seq
  if left_at and now_ms >= left_at + 0 and now_ms <= left_at + limits.ttl / 4 and room.seq < left_seq + LEFT_OVER then
    call("HSET", part .. "room:" .. id, "seq", seq)
  else
    call("HSET", part .. "room:" .. id, "seq", seq, "leftat", at, "leftseq", seq)
    call("ZREMRANGEBYRANK", left, 0, -LEFT_KEPT - 1)
    call("PEXPIRE", left, number(limits.ttl * 1.25))
  end
  local gone = part .. "gone:" .. m.session
  call("HSET", gone, id, room.epoch .. NUL .. m.generation .. NUL .. request_key .. NUL .. reason .. NUL .. extended)
  call("PEXPIRE", gone, limits.gone)

  local count = call("ZCARD", members)
  call("PUBLISH", part .. "ch:" .. id,
    event(room.epoch, seq, "l", at, m.session, user, count, reason, m.data .. NUL .. extended))
  if room.bequests then -- seldom
    bequeath(part, id, room, user, now_ms, limits)
  end
  if count == 0 then -- seldom
    emptied(part, id, room, now_ms)
  end
  return seq
end

-- put_back says whether a session that left a room at epoch and seq is in it all
-- the same: data was lost since, and its gateway did not know that it had left.
local function put_back(part, id, user, session, epoch, seq)
  local f = call("HMGET", key(part, "room", id), "epoch", "from")
  if not f[2] or f[1] == epoch or not f[2]:find("," .. epoch .. ",", 1, true) then
    return false
  end
  local m = membership(call("HGET", key(part, "info", id), user))
  return m and m.session == session and tonumber(call("ZSCORE", key(part, "members", id), user)) < tonumber(seq)
end
