-- why.lua: what a session that comes back is told.

-- why says what ended the session's membership of a room. "kept" is said of one
-- that has not ended. epoch is that of the membership, or nil.
local function why(part, id, user, session, room, epoch)
  local g = call("HGET", key(part, "gone", session), id)
  if g then
    local gone_epoch, reason, extended = g:match("^([^%z]*)%z[^%z]*%z[^%z]*%z([^%z]*)%z(.*)$")
    if not epoch or gone_epoch == epoch then
      return reason, extended
    end
  end
  if not room then
    return "noroom", ""
  end
  if epoch and room.epoch ~= epoch then
    return "recreated", ""
  end
  local m = membership(call("HGET", key(part, "info", id), user))
  if m then
    return m.session == session and "kept" or "device", ""
  end
  return "timeout", ""
end
