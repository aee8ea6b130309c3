-- request.lua: a state-changing call is safe to repeat. The newest outcomes of
-- a session are kept under their requestKeys; refusals are decided anew.

local OUTCOMES_KEPT = 64

-- outcome gives what an earlier call under this key came to, or nil; and
-- whether that call was another one than operation on room.
local function outcome(part, session, request_key, operation, room)
  if request_key == "" then
    return nil, false
  end
  local value = call("HGET", key(part, "did", session), request_key)
  if not value then
    return nil, false
  end
  local what = operation .. NUL .. room .. NUL
  if value:sub(1, #what) ~= what then
    return nil, true
  end
  return value:sub(#what + 1), false
end

-- above says whether one requestKey is higher than another. Those that
-- gateways make have more digits than a number holds.
local function above(a, b)
  local x, y = a:match("^%d+"), b:match("^%d+")
  if x ~= y then
    return tonumber(x) > tonumber(y)
  end
  return a > b
end

-- remember keeps an applied outcome. Old ones are dropped now and then rather
-- than each time, so that the cost of a call does not grow with them.
local function remember(part, session, request_key, operation, room, value, ttl_ms)
  if request_key == "" then
    return
  end
  local did = key(part, "did", session)
  call("HSET", did, request_key, operation .. NUL .. room .. NUL .. value)
  if call("HLEN", did) > OUTCOMES_KEPT + 32 then
    local keys = call("HKEYS", did)
    table.sort(keys, above)
    for i = OUTCOMES_KEPT + 1, #keys do
      call("HDEL", did, keys[i])
    end
  end
  call("PEXPIRE", did, ttl_ms)
end
