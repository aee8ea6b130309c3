-- limits.lua: counts that a limit is checked against. They come from the sets
-- themselves.

-- rooms_exist counts the rooms of all partitions, without those past their
-- deadline.
local function rooms_exist(part, partitions, now_ms)
  local n = 0
  for p = 0, partitions - 1 do
    local other = slot(part, tostring(p))
    n = n + call("ZCARD", other .. "rooms") - call("ZCOUNT", other .. "due", "-inf", number(now_ms))
  end
  return n
end

-- rooms_of_user counts the rooms a user is in, over all devices. Below the
-- limit the size of the hash says enough; at the limit each room of the list is
-- looked at and those the user is no longer in are dropped from it.
local function rooms_of_user(part, user_key, user, limit)
  local n = 0
  if call("HLEN", user_key) - 1 >= limit then -- seldom
    local fields = call("HGETALL", user_key)
    for i = 1, #fields, 2 do
      local id = fields[i]:match("^r:(.*)$")
      if id then
        local r = user_room(fields[i + 1])
        local other = slot(part, r.partition)
        local f = call("HMGET", key(other, "room", id), "epoch")
        local m = f[1] and membership(call("HGET", key(other, "info", id), user))
        if m and m.session == r.session then
          n = n + 1
        else
          void_place(other, id, user_key, user, r)
        end
      end
    end
  end
  return n
end
