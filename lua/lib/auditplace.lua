-- auditplace.lua: what an audit of one slot sees of others. On one Redis it looks
-- itself. Where hash slots lie apart lib/auditapart.lua stands here in place of this
-- file.

-- leased says whether a node holds a lease, or has not been given up yet.
local function leased(nodes, _, node)
  return call("ZSCORE", nodes, node)
end

-- outdated says whether a membership is another than when its session was read.
local function outdated()
  return false
end

-- record_of gives a session's record, and whether its end is being seen to.
local function record_of(user_key, session)
  return session_record(call("HGET", user_key, "s:" .. session)), false
end

-- place_of says whether a user's hash has a membership as it has to be, and what it has.
-- from are the epochs that the room goes back to.
local function place_of(user_key, id, epoch, from, partition, m)
  local r = call("HGET", user_key, "r:" .. id)
  local since, rest = (r or ""):match("^(%d*)(.*)$")
  -- A place from before data was lost is one in the room that it goes back to.
  local known = since == epoch or ((from or ""):find("," .. since .. ",", 1, true) and since ~= "")
  return known and rest == NUL .. partition .. NUL .. m.session, r
end

local function mend_place(part, user_key, id, user, epoch, partition, m)
  call("HSET", user_key, "r:" .. id, epoch .. NUL .. partition .. NUL .. m.session)
end

-- drop_place takes a place from a user's hash. m is the membership that it was for, or
-- nil.
local function drop_place(part, user_key, id)
  call("HDEL", user_key, "r:" .. id)
end

-- audit_field looks at a field of a user's hash that is not a session.
local function audit_field(finding, user_key, uslot, user, field, value, partitions)
  local id = field:match("^r:(.+)$")
  local drop = function() call("HDEL", user_key, field) end
  if not id then
    finding("damaged", user_key, "has the field " .. shown(field), drop)
    return
  end
  local r = value:match("^%d+%z%d+%z[^%z]+$") and user_room(value)
  if not r or tonumber(r.partition) >= partitions then
    finding("damaged", user .. "'s place in " .. id, "is " .. shown(value), drop)
    return
  end
  local part = slot(uslot, r.partition)
  local m = membership(call("HGET", key(part, "info", id), user))
  -- A place in a life that is over is void, and no finding.
  if call("HGET", key(part, "room", id), "epoch") == r.epoch and (not m or m.session ~= r.session) then
    finding("reservation", user .. "'s place in " .. id, "is of session " .. r.session .. ", which is not in it", drop)
  end
end
