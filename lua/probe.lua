-- probe.lua sends a node a message through the path that events take: one of its
-- own, or, where slots lie apart, the order that another script has listed.
--
-- Unguarded  it shows whether events arrive, whatever is stored; and an order closes
--            no socket that is still its node's
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
