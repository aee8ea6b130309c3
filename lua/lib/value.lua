-- value.lua: strings that hold several values, joined by NUL, which no ID
-- contains. What may contain anything comes last.

local call = redis.call
local NUL = "\0"

-- key names a key of a partition or of a user's slot.
local function key(part, kind, id)
  return part .. kind .. ":" .. id
end

-- root is what all keys of a deployment begin with, given any partition.
local function root(part)
  return part:match("^(.-){")
end

-- slot names another partition ("3") or user's slot ("u3"), given any one.
local function slot(part, name)
  return root(part) .. "{" .. name .. "}:"
end

-- membership reads a field of info: for whom the user is a member. node is ""
-- while the session is parked; user_slot is where the user's hash lives; joined is
-- when the user entered, in unix ms, or "" if that was lost.
local function membership(value)
  if not value then
    return nil
  end
  local session, generation, node, user_slot, joined, data =
    value:match("^([^%z]*)%z([^%z]*)%z([^%z]*)%z([^%z]*)%z([^%z]*)%z(.*)$")
  return {
    session = session, generation = generation, node = node, user_slot = user_slot, joined = joined, data = data,
  }
end

local function membership_value(m)
  return m.session .. NUL .. m.generation .. NUL .. m.node .. NUL .. m.user_slot .. NUL .. m.joined .. NUL ..
    m.data
end

-- moved gives a field of info, if it is that of a session, as it is with the session
-- on another node, "" for none, and under another generation, nil for the same; and
-- which node the session is on by the field.
local function moved(info, session, node, generation)
  local mine = session .. NUL
  if not info or info:sub(1, #mine) ~= mine then
    return nil
  end
  local before, at, rest = info:match("^([^%z]*)%z([^%z]*)()", #mine + 1)
  return mine .. (generation or before) .. NUL .. node .. info:sub(rest), at
end

-- session_record reads a field "s:<session>" of a user's hash. deadline is ""
-- while a socket is attached.
local function session_record(value)
  if not value then
    return nil
  end
  local generation, node, deadline, login, device =
    value:match("^([^%z]*)%z([^%z]*)%z([^%z]*)%z([^%z]*)%z(.*)$")
  return { generation = generation, node = node, deadline = deadline, login = login, device = device }
end

local function session_value(s)
  return s.generation .. NUL .. s.node .. NUL .. s.deadline .. NUL .. s.login .. NUL .. s.device
end

-- user_room reads a field "r:<room>" of a user's hash.
local function user_room(value)
  local epoch, partition, session = value:match("^([^%z]*)%z([^%z]*)%z(.*)$")
  return { epoch = epoch, partition = partition, session = session }
end

-- number prints a whole number that may have more than the 14 digits Lua prints.
local function number(n)
  return string.format("%d", n)
end
