-- cluster.lua gives the nodes that hold a lease, and what each last said of itself.
--
-- Uses     value clock
--
-- KEYS[1]  nodes    zset    node incarnations by the end of their lease, awake ms
-- KEYS[2]  control  prefix  of clock and gateway
--
-- ARGV[1]  limit  of nodes
--
-- Returns  {"ok", now, node, left, about, …}  Redis's time in ms; of each node how many
--                     ms its lease lasts, and "since NUL about" as lease has it, or ""

local nodes, control, limit = KEYS[1], KEYS[2], ARGV[1]

local now_ms = now()
local awake_ms = awake(control, now_ms)
local reply = { "ok", number(now_ms) }
local alive = call("ZRANGEBYSCORE", nodes, "(" .. number(awake_ms), "+inf", "WITHSCORES", "LIMIT", 0, limit)
for i = 1, #alive, 2 do
  local n = #reply
  reply[n + 1], reply[n + 2] = alive[i], number(tonumber(alive[i + 1]) - awake_ms)
  reply[n + 3] = call("GET", key(control, "gateway", alive[i])) or ""
end
return reply
