-- entry.lua: what is kept of entries. There can be several tries of one under its
-- requestKey. They count within a generation; those of an earlier one are
-- fenced.

-- entry_outcome is outcome for an entry. It says last whether this try was given
-- up.
local function entry_outcome(part, session, request_key, operation, room, generation, try)
  local value, misused, at = outcome(part, session, request_key, operation, room)
  if not value then
    return nil, misused, at, false
  end
  local g, last = value:match("^%z(%d+)%z(%d+)$")
  if not g then
    return value, false, at, false
  end
  return nil, false, at, g == generation and tonumber(try) <= tonumber(last)
end

-- give_up sees to it that no try up to this one is carried out any more. It
-- takes the place of the outcome, if there is one. The first write frees memory,
-- so that a full Redis does it, too.
local function give_up(part, session, request_key, operation, room, generation, try, ttl_ms, at)
  call("HDEL", key(part, "did", session), request_key)
  remember(part, session, request_key, operation, room, NUL .. generation .. NUL .. try, ttl_ms, at, now())
end

local ENTRIES = { create = true, join = true, enter = true, switch = true }

-- entered_since says whether a session has entered a room again after it did so
-- at epoch and seq, as far as its outcomes tell.
local function entered_since(part, id, session, epoch, seq)
  local did = key(part, "did", session)
  local fields = call("HGETALL", did)
  for i = 2, #fields, 2 do
    local operation, room, value = fields[i]:match("^([^%z]*)%z([^%z]*)%z(.*)$")
    if room == id and ENTRIES[operation] then
      if operation == "switch" then
        value = value:match("^[^%z]*%z%d+%z%d+%z(.*)$") or ""
      end
      local e, s = value:match("^(%d+)%z(%d+)%z")
      if e and (tonumber(e) > tonumber(epoch) or e == epoch and tonumber(s) > tonumber(seq)) then
        return true
      end
    end
  end
  return false
end
