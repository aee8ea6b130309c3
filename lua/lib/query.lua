-- query.lua: who may ask about a room.

-- may_ask gives the room, or nil and why not.
local function may_ask(part, id, user, session, now_ms)
  local room = load(part, id, now_ms)
  if not room then
    return nil, { "noroom" }
  end
  local m = membership(call("HGET", key(part, "info", id), user))
  if not m or m.session ~= session then
    return nil, { "notin" }
  end
  return room
end
