-- request.lua: a state-changing call is safe to repeat. The newest outcomes of
-- a session are kept under their requestKeys; refusals are decided anew.

local OUTCOMES_KEPT = 64

-- outcome gives what an earlier call under this key came to, or nil; whether
-- that call was another one than operation on room; and for remember when the
-- outcomes' expiry was set.
local function outcome(part, session, request_key, operation, room)
  if request_key == "" then
    return nil, false
  end
  local f = call("HMGET", part .. "did:" .. session, request_key, "at")
  local value, at = f[1], f[2]
  if not value then
    return nil, false, at
  end
  local what = operation .. NUL .. room .. NUL
  if value:sub(1, #what) ~= what then
    return nil, true, at
  end
  return value:sub(#what + 1), false, at
end

-- above says whether one requestKey is higher than another. Those that
-- gateways make have more digits than a number holds, but all the same length.
local function above(a, b)
  if #a == #b then
    return a > b
  end
  local x, y = a:match("^%d+"), b:match("^%d+")
  if x ~= y then
    return tonumber(x) > tonumber(y)
  end
  return a > b
end

-- forget_old drops all outcomes but the newest.
local function forget_old(did)
  local keys = call("HKEYS", did)
  for i = 1, #keys do
    if keys[i] == "at" then
      table.remove(keys, i)
      break
    end
  end
  table.sort(keys, above)
  if keys[OUTCOMES_KEPT + 1] then
    call("HDEL", did, unpack(keys, OUTCOMES_KEPT + 1))
  end
end

-- remember keeps an applied outcome, for ttl_ms or up to a quarter more. What
-- costs as much as the rest is done now and then: the expiry is set anew when a
-- quarter of it has passed; whether there are too many outcomes is looked at
-- once in eight calls or so.
local function remember(part, session, request_key, operation, room, value, ttl_ms, at, now_ms, now_us)
  if request_key == "" then
    return
  end
  local did = part .. "did:" .. session
  value = operation .. NUL .. room .. NUL .. value
  if not at or now_ms < at + 0 or now_ms > at + ttl_ms / 4 then -- seldom
    call("HSET", did, request_key, value, "at", number(now_ms))
    call("PEXPIRE", did, number(ttl_ms * 1.25))
    return
  end
  call("HSET", did, request_key, value)
  if now_us % 8 == 0 and call("HLEN", did) > 2 * OUTCOMES_KEPT then -- seldom
    forget_old(did)
  end
end
