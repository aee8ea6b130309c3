-- audituser.lua holds a user's sessions and rooms against the indexes and the
-- rooms. It repairs what it finds, if it is told to.
--
-- Uses     value clock audit auditplace
--
-- KEYS[1]  user     hash    the user's sessions and rooms
-- KEYS[2]  uslot    prefix  of the keys in the user's slot
-- KEYS[3]  control  prefix  of clock and dead
-- KEYS[4]  nodes    zset    node incarnations by the end of their lease
--
-- ARGV[1]  user
-- ARGV[2]  repair       "1" to repair, "0" only to look
-- ARGV[3]  session_ttl  ms
-- ARGV[4]  lease_ttl    ms
-- ARGV[5]  partitions
-- ARGV[6]  nodes        as auditroom has it
--
-- Returns  {"ok", code, subject, detail, repaired, of, …}  as auditroom
--
-- Publishes  nothing

local user_key, uslot, control, nodes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local user, repair = ARGV[1], ARGV[2]
local session_ttl, lease_ttl, partitions = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local leases = ARGV[6]

local reply = { "ok" }
local finding = findings(reply, repair)
local now_ms = now()
local awake_ms = awake(control, now_ms)
local fields = call("HGETALL", user_key)
for i = 1, #fields, 2 do
  local field, value = fields[i], fields[i + 1]
  local session = field:match("^s:(.+)$")
  local drop = function() call("HDEL", user_key, field) end
  if session then
    local who = "session " .. session .. " of " .. user
    local entry = session .. NUL .. user
    local s = value:match("^%d+%z[^%z]*%z%d*%z%d+%z") and session_record(value)
    local function park()
      if s.node ~= "" then
        call("SREM", key(uslot, "nodesessions", s.node), entry)
      end
      s.node, s.deadline = "", number(awake_ms + session_ttl)
      call("HSET", user_key, field, session_value(s))
      call("ZADD", uslot .. "parked", s.deadline, entry)
    end
    if not s then
      finding("damaged", who, "is " .. shown(value), drop)
    elseif (s.node == "") == (s.deadline == "") then
      finding("apart", who, "is on node " .. shown(s.node) .. " with the deadline " .. shown(s.deadline), park)
    elseif s.node == "" then
      local till = tonumber(s.deadline)
      if till > awake_ms + session_ttl + lease_ttl + SLACK_MS then
        finding("deadline", who, "ends in " .. number(till - awake_ms) .. " ms, which is too late", park)
      elseif tonumber(call("ZSCORE", uslot .. "parked", entry) or "") ~= till then
        finding("forever", who, "is parked, and its end is not noted", function()
          call("ZADD", uslot .. "parked", s.deadline, entry)
        end)
      end
    elseif not leased(nodes, leases, s.node) then
      finding("nonode", who, "is held by node " .. s.node .. ", which is not there", park)
    elseif call("SISMEMBER", key(uslot, "nodesessions", s.node), entry) == 0 then
      finding("unheld", who, "is on node " .. s.node .. ", which does not know it", function()
        call("SADD", key(uslot, "nodesessions", s.node), entry)
      end)
    end
  else
    audit_field(finding, user_key, uslot, user, field, value, partitions)
  end
end
return reply
