-- session.lua: sessions of a user, on the user's hash.

-- dead says whether the node has been given up by the others: what it still
-- sends changes nothing.
local function dead(control, node)
  return call("ZSCORE", control .. "dead", node)
end

-- session_of reads the record of a session among the fields of its user's hash.
local function session_of(fields, session)
  local name = "s:" .. session
  for i = 1, #fields, 2 do
    if fields[i] == name then
      return session_record(fields[i + 1])
    end
  end
  return nil
end

-- park_membership starts the clock of one membership.
local function park_membership(part, id, user, m, deadline)
  if m.node ~= "" then
    call("SREM", key(part, "node", m.node), user .. NUL .. id)
  end
  m.node = ""
  call("HSET", key(part, "info", id), user, membership_value(m))
  call("ZADD", part .. "parked", deadline, m.session .. NUL .. user .. NUL .. id)
end
