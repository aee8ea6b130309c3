-- act.lua: who may act in a room. This stands in a script where it says so, and
-- ends the call if the session may not. Of the script it takes now_ms, the arguments
-- part, id, user, session and generation, and head, what the script has read of
-- the room: epoch, seq, term and deadline first. It leaves info, the user's
-- membership of the room as it is stored, and mine, what that begins with.

if not head[1] or head[4] or (head[3] or "") ~= TERM then -- seldom
  if not load(part, id, now_ms) then
    return { "noroom" }
  end
end
local info, mine = call("HGET", part .. "info:" .. id, user), session .. NUL .. generation .. NUL
if not info or info:sub(1, #mine) ~= mine or info:byte(#mine + 1) == 0 then -- seldom
  local m = membership(info)
  if not m or m.session ~= session then
    return { "notin" }
  end
  return { "fenced" }
end
