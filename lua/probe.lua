-- probe.lua sends a node a message through the path that events take.
--
-- Unguarded  it shows whether events arrive, whatever is stored
--
-- KEYS[1]  channel  of the node
--
-- ARGV[1]  message
--
-- Returns  {"ok"}
--
-- Publishes  the message

redis.call("PUBLISH", KEYS[1], ARGV[1])
return { "ok" }
