-- session.lua: sessions of a user, on the user's hash.

-- dead says whether the node has been given up by the others: what it still
-- sends changes nothing.
local function dead(control, node)
  return call("ZSCORE", control .. "dead", node)
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
