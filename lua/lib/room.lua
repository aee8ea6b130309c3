-- room.lua: a room's life, and what is announced of it.

-- Everything a room has. due and rooms index it.
local KINDS = { "room", "members", "info", "left", "log", "attrs", "memberattrs", "blocked" }

local function room_keys(part, id)
  local keys = {}
  for i = 1, #KINDS do
    keys[i] = key(part, KINDS[i], id)
  end
  return keys
end

-- event joins the fields of the envelope (bus contract, roomstore/event.go).
local function event(epoch, seq, kind, at_ms, origin, user, a, b, payload)
  return table.concat({ epoch, number(seq), kind, number(at_ms), origin, user, a, b, payload }, NUL)
end

local function publish(part, id, message)
  call("PUBLISH", key(part, "ch", id), message)
end

-- announce_end says on the life channel that a life is over.
local function announce_end(part, id, epoch, reason)
  call("PUBLISH", part .. "life", "destroyed" .. NUL .. epoch .. NUL .. reason .. NUL .. id)
end

-- finish ends a room's life: one event to its members, one entry on the life
-- channel, nothing left. Index entries elsewhere are void from now on.
local function finish(part, id, room, reason, now_ms)
  call("UNLINK", unpack(room_keys(part, id)))
  call("ZREM", part .. "rooms", id)
  call("ZREM", part .. "due", id .. NUL .. room.epoch)
  publish(part, id, event(room.epoch, room.seq + 1, "d", now_ms, "", "", "", reason, ""))
  announce_end(part, id, room.epoch, reason)
end

-- touch notes where a room was when the term began, before anything else happens
-- to it. A gateway that was away then, and knows of more, knows what was lost.
local function touch(part, id, seq, prior)
  local room_key = key(part, "room", id)
  call("HDEL", room_key, "term") -- as a first write it is not refused
  call("HSET", room_key, "term", TERM, "prior", prior, "base", seq)
end

-- healing gives where a room's epoch begins and the earlier ones that it goes
-- back to, if it is one that began because data was lost: else "0" and "".
local function healing(part, id, room)
  local f = room and call("HMGET", key(part, "room", id), "base", "from")
  if not f or not f[2] then
    return "0", ""
  end
  return f[1], f[2]
end

-- load reads a room, or nil if there is none. One that is past its deadline is
-- finished first: it does not exist for any operation.
local function load(part, id, now_ms)
  local f = call("HMGET", key(part, "room", id),
    "epoch", "seq", "deadline", "delay", "name", "messageSeq", "order", "logbytes", "term", "bequests")
  if not f[1] then
    return nil
  end
  local room = {
    epoch = f[1], seq = tonumber(f[2]), deadline = f[3], delay = f[4], name = f[5],
    message_seq = f[6], order = tonumber(f[7] or 0), log_bytes = tonumber(f[8] or 0), bequests = f[10],
  }
  if room.deadline and tonumber(room.deadline) <= now_ms then
    finish(part, id, room, "emptied", now_ms)
    return nil
  end
  if (f[9] or "") ~= TERM then
    touch(part, id, f[2], f[9] or "")
  end
  return room
end
