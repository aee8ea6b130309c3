-- log.lua: the short history that those who come back are served from.

-- append keeps an event. bytes is what the log held before; what it holds now
-- is returned, for the room's hash. last_us is about when the last event came,
-- or nil.
local function append(part, id, message, now_us, last_us, bytes, size, max_bytes, ttl_ms)
  local log = part .. "log:" .. id
  local n = call("RPUSH", log, message)
  if n == 1 then
    bytes = 0 -- what was there has expired
  end
  bytes = bytes + #message
  while n > size or bytes > max_bytes and n > 1 do
    bytes = bytes - #call("LPOP", log)
    n = n - 1
  end
  -- The whole list expires with its newest event, or up to a quarter later: the
  -- expiry is set anew, which costs as much as two other calls, when the first
  -- event of a quarter comes. In a room that never falls silent the old ones go
  -- then.
  local quarter = ttl_ms * 250
  if n == 1 or not last_us or now_us - now_us % quarter ~= last_us - last_us % quarter then -- seldom
    call("PEXPIRE", log, number(ttl_ms * 1.25))
    local bygone = now_us / 1000 - ttl_ms
    while n > 1 and tonumber(call("LINDEX", log, 0):match("^[^%z]*%z[^%z]*%z[^%z]*%z(%d+)") or bygone) < bygone do
      bytes = bytes - #call("LPOP", log)
      n = n - 1
    end
  end
  return bytes
end
