-- room.lua: a room's life, and what is announced of it.

-- room_keys gives everything a room has. due and rooms index it.
local function room_keys(part, id)
  local keys = {}
  for i, kind in ipairs({ "room", "members", "info", "left", "log", "attrs", "memberattrs", "blocked" }) do
    keys[i] = key(part, kind, id)
  end
  return keys
end

-- event joins the fields of the envelope (bus contract, roomstore/event.go), all
-- of them text.
local function event(epoch, seq, kind, at, origin, user, a, b, payload)
  return epoch .. NUL .. seq .. NUL .. kind .. NUL .. at .. NUL .. origin .. NUL .. user .. NUL .. a .. NUL .. b ..
    NUL .. payload
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
  local admitted = admission_of(part, id)
  call("UNLINK", unpack(room_keys(part, id)))
  call("ZREM", part .. "rooms", id)
  call("ZREM", part .. "due", id .. NUL .. room.epoch)
  end_admission(part, id, admitted)
  publish(part, id, event(room.epoch, number(room.seq + 1), "d", number(now_ms), "", "", "", reason, ""))
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
-- finished first: it does not exist for any operation. attrs and blocked say
-- whether the room has attributes and a list of blocked users.
local function load(part, id, now_ms)
  local f = call("HMGET", part .. "room:" .. id,
    "epoch", "seq", "term", "deadline", "delay", "name", "attrs", "blocked", "bequests")
  if not f[1] then
    return nil
  end
  local room = {
    epoch = f[1], seq = tonumber(f[2]), deadline = f[4], delay = f[5], name = f[6], attrs = f[7], blocked = f[8],
    bequests = f[9],
  }
  if room.deadline and tonumber(room.deadline) <= now_ms then -- seldom
    finish(part, id, room, "emptied", now_ms)
    return nil
  end
  if (f[3] or "") ~= TERM then -- seldom
    touch(part, id, f[2], f[3] or "")
  end
  return room
end
