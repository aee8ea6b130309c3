-- act.lua: who may act in a room.

-- may_act gives the room and the user's membership of it, or nil and why not.
local function may_act(part, id, user, session, generation, now_ms)
  local room = load(part, id, now_ms)
  if not room then
    return nil, { "noroom" }
  end
  local m = membership(call("HGET", key(part, "info", id), user))
  if not m or m.session ~= session then
    return nil, { "notin" }
  end
  if m.generation ~= generation or m.node == "" then
    return nil, { "fenced" }
  end
  return room, m
end
