-- auditindex.lua holds entries of an index against what they name. It repairs
-- what it finds, if it is told to. What is missing from an index is found from
-- the other side.
--
-- Uses     value clock audit auditplace
--
-- KEYS[1]  index    zset or set; or a hash, whose fields are the entries
-- KEYS[2]  prefix   prefix  of the partition or users' slot it lies in
-- KEYS[3]  control  prefix  of clock
-- KEYS[4]  nodes    zset    node incarnations by the end of their lease
--
-- ARGV[1]  kind       "due", "parked", "sessions" (parked ones), "node",
--                     "nodesessions", "nodes" or "switching"; or, of a room,
--                     "memberattrs" or "blocked"
-- ARGV[2]  node       whose set it is, or the room; "" if it is neither
-- ARGV[3]  repair     "1" to repair, "0" only to look
-- ARGV[4]  lease_ttl  ms
-- ARGV[5]  nodes      as auditroom has it
-- ARGV[6]  max_pairs  of attributes of one member
-- ARGV[7]  max_bytes  of their keys and values
-- ARGV[8]  count      of the entries; they follow
-- ARGV[9]  entry, …
--
-- Returns  {"ok", code, subject, detail, repaired, of, …}  as auditroom
--
-- Publishes  nothing

local index, prefix, control, nodes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kind, node, repair, lease_ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local leases, max_pairs, max_bytes, count = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local reply = { "ok" }
local finding = findings(reply, repair)
local now_ms = now()
local awake_ms = awake(control, now_ms)
local held = kind == "node" or kind == "nodesessions"
local of_room = kind == "memberattrs" or kind == "blocked"
local known = held and leased(nodes, leases, node)

for i = 1, count do
  local entry = ARGV[8 + i]
  local function drop()
    if of_room then
      call("HDEL", index, entry)
      return
    end
    call(held and "SREM" or "ZREM", index, entry)
  end
  local value = of_room and call("HGET", index, entry)
  local score = not of_room and (held and call("SISMEMBER", index, entry) == 1
    or not held and tonumber(call("ZSCORE", index, entry) or ""))
  if value and kind == "blocked" then
    if not whole(value) then
      finding("damaged", entry .. " in " .. node, "is blocked until " .. shown(value), drop)
    end
  elseif value then
    local texts, bytes, goes = texts_in(value), 0, false
    for j = 1, texts and #texts or 0, 2 do
      local flag, text = (texts[j + 1] or ""):match("^([01])(.*)$")
      if not flag then
        texts = nil
        break
      end
      bytes, goes = bytes + #texts[j] + #text, goes or flag == "1"
    end
    if not texts or #texts == 0 then
      finding("damaged", entry .. " in " .. node, "has the attributes " .. shown(value:sub(1, 60)), drop)
    else
      if #texts > 2 * max_pairs or bytes > max_bytes then
        finding("attributes", entry .. " in " .. node, "has " .. #texts / 2 .. " attributes of " .. bytes ..
          " bytes, more than " .. max_pairs .. " or " .. max_bytes)
      end
      local room_key = key(prefix, "room", node)
      if goes and call("EXISTS", room_key) == 1 and call("HGET", room_key, "bequests") ~= "1" then
        finding("flag", node, "has a member's attribute that goes with the member, and says of bequests " ..
          shown(call("HGET", room_key, "bequests")), function() call("HSET", room_key, "bequests", "1") end)
      end
    end
  elseif score and kind == "due" then
    local id, epoch = entry:match("^(.+)%z(%d+)$")
    local now_epoch = id and call("HGET", key(prefix, "room", id), "epoch")
    if not id then
      finding("damaged", index, "has the entry " .. shown(entry), drop)
    elseif now_epoch ~= epoch and (now_epoch or score > now_ms) then
      finding("undue", id, "is to be destroyed as of epoch " .. epoch .. ", it has " .. shown(now_epoch), drop)
    elseif score < now_ms - SLACK_MS then
      finding("overdue", id, "should have been destroyed " .. number(now_ms - score) .. " ms ago")
    end
  elseif score and kind == "parked" then
    if not entry:match("^[^%z]+%z[^%z]+%z.+$") then
      finding("damaged", index, "has the entry " .. shown(entry), drop)
    elseif score < awake_ms - SLACK_MS then
      finding("overdue", index, "has the entry " .. shown(entry) .. ", which was due " .. number(awake_ms - score) .. " ms ago")
    end
  elseif score and kind == "switching" then
    local session, user, id = entry:match("^([^%z]+)%z([^%z]+)%z(.+)$")
    if not session then
      finding("damaged", index, "has the entry " .. shown(entry), drop)
    elseif call("HEXISTS", key(prefix, "user", user), "w:" .. id .. NUL .. session) == 0 then
      finding("stale", index, "has a switch of " .. user .. " to " .. id .. ", which is not under way", drop)
    elseif score < awake_ms - SLACK_MS then
      finding("overdue", index, "has a switch of " .. user .. " to " .. id .. ", to be finished " ..
        number(awake_ms - score) .. " ms ago")
    end
  elseif score and kind == "nodes" then
    if score > awake_ms + lease_ttl + SLACK_MS then
      finding("deadline", "node " .. entry, "has a lease of " .. number(score - awake_ms) .. " ms, which is too long", function()
        call("ZADD", index, awake_ms + lease_ttl, entry)
      end)
    end
  elseif score and kind == "node" then
    if not entry:match("^[^%z]+%z.+$") then
      finding("damaged", index, "has the entry " .. shown(entry), drop)
    elseif not known then
      finding("orphaned", index, "is of a node that is not there", drop)
    end
  elseif score then
    local session, user = entry:match("^([^%z]+)%z([^%z]+)$")
    local s = session and session_record(call("HGET", key(prefix, "user", user), "s:" .. session))
    if not session then
      finding("damaged", index, "has the entry " .. shown(entry), drop)
    elseif s and s.node ~= node or held and not s or s and not held and tonumber(s.deadline) ~= score then
      finding("stale", index, "has the session " .. session .. " of " .. user .. ", which is not there", drop)
    elseif held and not known then
      finding("orphaned", index, "is of a node that is not there", drop)
    elseif not held and score < awake_ms - SLACK_MS then
      finding("overdue", index, "has the session " .. session .. " of " .. user .. ", which ended " .. number(awake_ms - score) .. " ms ago")
    end
  end
end
return reply
