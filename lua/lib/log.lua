-- log.lua: the short history that those who come back are served from.

-- append keeps an event. bytes is what the log held before; what it holds now
-- is returned, for the room's hash.
local function append(part, id, message, seq, now_ms, bytes, limits)
  local log = key(part, "log", id)
  local n = call("RPUSH", log, message)
  if n == 1 then
    bytes = 0 -- what was there has expired
  end
  bytes = bytes + #message
  while n > limits.size or bytes > limits.bytes and n > 1 do
    bytes = bytes - #call("LPOP", log)
    n = n - 1
  end
  -- The whole list expires with its newest event; in a room that never falls
  -- silent the old ones go a few at a time.
  if seq % 16 == 0 then
    for _ = 1, 32 do
      local oldest = call("LINDEX", log, 0)
      local at = oldest and tonumber(oldest:match("^[^%z]*%z[^%z]*%z[^%z]*%z(%d+)"))
      if not at or at >= now_ms - limits.ttl then
        break
      end
      call("LPOP", log)
      bytes = bytes - #oldest
    end
  end
  call("PEXPIRE", log, limits.ttl)
  return bytes
end
