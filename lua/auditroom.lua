-- auditroom.lua holds what is stored of one room against itself, and some of
-- its members against their sessions and the indexes. It repairs what it finds,
-- if it is told to.
--
-- Uses     value clock session limits room depart audit auditplace
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  control    prefix  of clock and dead
-- KEYS[3]  nodes      zset    node incarnations by the end of their lease
--
-- ARGV[1]   room
-- ARGV[2]   repair       "1" to repair, "0" only to look
-- ARGV[3]   number_of_partition  of the room
-- ARGV[4]   session_ttl  ms
-- ARGV[5]   lease_ttl    ms
-- ARGV[6]   log_ttl      ms
-- ARGV[7]   longest      seconds that a room may be empty
-- ARGV[8]   nodes        with a lease, each between NULs, if they are not in this slot
-- ARGV[9]   max_keys     of attributes of the room
-- ARGV[10]  max_bytes    of their keys and values
-- ARGV[11]  count        of users; five arguments each follow. Each is someone who
--                       is in members or in info
-- ARGV[12]  user, user_slot, record, place, read, …  the latter three if users are not in
--                       this slot: of the session that info has, its record or "over",
--                       and its reservation of the room; and what info had before
--                       these were read
--
-- Returns  {"ok", code, subject, detail, repaired, of, …}  five values a finding;
--                                                          repaired is "1" or "0";
--                                                          of is as findings has it
--
-- Publishes  "d" and "destroyed" for a room that had to be given up

-- How many of the newest kept events are looked at.
local LOG_LOOKED_AT = 500

local part, control, nodes = KEYS[1], KEYS[2], KEYS[3]
local id, repair, partition = ARGV[1], ARGV[2], ARGV[3]
local session_ttl, lease_ttl, log_ttl = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local longest, leases = tonumber(ARGV[7]), ARGV[8]
local max_keys, max_bytes, count = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

local reply = { "ok" }
local finding = findings(reply, repair)
local now_ms = now()
local awake_ms = awake(control, now_ms)
local room_key, members, info = key(part, "room", id), key(part, "members", id), key(part, "info", id)
local f = call("HMGET", room_key, "epoch", "seq", "messageSeq", "delay", "deadline", "logbytes", "from")
local epoch, deadline = f[1], f[5]
local seq = whole(f[2])
local sound = whole(epoch) and seq and whole(f[3]) and whole(f[4]) and (not deadline or whole(deadline))

-- unparked starts the clock of a membership that nobody watches over.
local function unparked(user, m)
  park_membership(part, id, user, m, awake_ms + session_ttl)
end

-- What the room has announced, as far as its parts tell.
local highest = 0
for _, index in ipairs({ members, key(part, "left", id) }) do
  highest = math.max(highest, tonumber(call("ZRANGE", index, -1, -1, "WITHSCORES")[2] or 0))
end
local log = key(part, "log", id)
local bytes, before, broken = 0, 0, nil
for _, message in ipairs(call("LRANGE", log, -LOG_LOOKED_AT, -1)) do
  local of, at = message:match("^(%d+)%z(%d+)%z%a%z")
  if of ~= epoch or tonumber(at) <= before then
    broken = message:sub(1, 60)
    break
  end
  bytes, before = bytes + #message, tonumber(at)
end
highest = math.max(highest, before)

if not sound then
  local function end_life()
    if whole(epoch) then
      finish(part, id, { epoch = epoch, seq = math.max(seq or 0, highest) }, "emptied", now_ms)
    else
      call("UNLINK", unpack(room_keys(part, id)))
      call("ZREM", part .. "rooms", id)
    end
  end
  if call("EXISTS", room_key) == 1 then
    finding("damaged", id, "the room has epoch " .. shown(f[1]) .. ", seq " .. shown(f[2]) .. ", messageSeq " ..
      shown(f[3]) .. ", delay " .. shown(f[4]) .. " and deadline " .. shown(f[5]), end_life)
  else
    if call("ZSCORE", part .. "rooms", id) then
      finding("registered", id, "is in the list of rooms, and there is no such room", end_life)
    end
    for _, k in ipairs(room_keys(part, id)) do
      if call("EXISTS", k) == 1 then
        finding("orphaned", k, "belongs to no room", function() call("UNLINK", k) end)
      end
    end
  end
  return reply
end

-- The members given.
for i = 0, count - 1 do
  local user, user_slot, record = ARGV[12 + 5 * i], ARGV[13 + 5 * i], ARGV[14 + 5 * i]
  local place, read = ARGV[15 + 5 * i], ARGV[16 + 5 * i]
  local who = user .. " in " .. id
  local user_key = key(slot(part, user_slot), "user", user)
  local entry = user .. NUL .. id
  local value = call("HGET", info, user)
  local entered = call("ZSCORE", members, user)
  local function about(code, detail, mend)
    finding(code, who, detail, mend, value)
  end
  local m = value and value:match("^[^%z]+%z%d+%z[^%z]*%z[^%z]+%z%d*%z") and membership(value)
  if outdated(value, read) then
    m = nil -- what was read elsewhere is not about this membership
  elseif entered and not m then
    about("noinfo", "is a member, and the info of the membership is " .. shown(value), function()
      call("ZREM", members, user)
      call("HDEL", info, user)
      drop_place(part, user_key, id, user)
    end)
  elseif m and not entered then
    about("nomember", "has the info of a membership, and is no member", function()
      call("HDEL", info, user)
      drop_place(part, user_key, id, user, m)
      call("ZREM", part .. "parked", m.session .. NUL .. entry)
      call("SREM", key(part, "node", m.node), entry)
    end)
  elseif m then
    local agrees, r = place_of(user_key, id, epoch, f[7], partition, m, place)
    if not agrees then
      about("reservation", "is not in the user's list of rooms as it has to be, which has " .. shown(r), function()
        mend_place(part, user_key, id, user, epoch, partition, m)
      end)
    end
    local home = m.user_slot:match("^[^#]*")
    if home ~= user_slot then
      about("slot", "has the user's slot " .. shown(home) .. ", it is " .. user_slot, function()
        m.user_slot = user_slot .. m.user_slot:sub(#home + 1)
        call("HSET", info, user, membership_value(m))
      end)
    end
    local s, over = record_of(user_key, m.session, record)
    local till = tonumber(call("ZSCORE", part .. "parked", m.session .. NUL .. entry) or "")
    if s and s.node and (s.node ~= m.node or s.generation ~= m.generation) then
      about("apart", "is of generation " .. m.generation .. " on node " .. shown(m.node) ..
        ", the session of " .. shown(s.generation) .. " on " .. shown(s.node), function()
        if m.node ~= "" then
          call("SREM", key(part, "node", m.node), entry)
        end
        m.generation = s.generation
        if s.node == "" then
          m.node = ""
          park_membership(part, id, user, m, tonumber(s.deadline) or awake_ms + session_ttl)
        else
          m.node = s.node
          call("ZREM", part .. "parked", m.session .. NUL .. entry)
          call("HSET", info, user, membership_value(m))
          call("SADD", key(part, "node", m.node), entry)
        end
      end)
    elseif m.node == "" then
      if not till then
        about("forever", "is parked, and nothing will ever evict it", function() unparked(user, m) end)
      elseif till > awake_ms + session_ttl + lease_ttl + SLACK_MS then
        about("deadline", "is to be evicted in " .. number(till - awake_ms) .. " ms, which is too late",
          function() unparked(user, m) end)
      end
    else
      if not leased(nodes, leases, m.node) then
        about("nonode", "is held by node " .. m.node .. ", which is not there", function() unparked(user, m) end)
      elseif not s and not over then
        about("nosession", "has the session " .. m.session .. ", which is not there", function() unparked(user, m) end)
      elseif call("SISMEMBER", key(part, "node", m.node), entry) == 0 then
        about("unheld", "is on node " .. m.node .. ", which does not know it", function()
          call("SADD", key(part, "node", m.node), entry)
        end)
      end
      if till then
        about("doubly", "is on node " .. m.node .. " and parked, too", function()
          call("ZREM", part .. "parked", m.session .. NUL .. entry)
        end)
      end
    end
  end
end

-- The room as a whole.
if not call("ZSCORE", part .. "rooms", id) then
  finding("unregistered", id, "is not in the list of rooms", function() call("ZADD", part .. "rooms", 0, id) end)
end
if broken then
  finding("log", id, "keeps in its log what cannot be there: " .. shown(broken), function()
    call("UNLINK", log)
    call("HSET", room_key, "logbytes", 0)
  end)
elseif before > 0 and bytes ~= tonumber(f[6] or 0) and call("LLEN", log) <= LOG_LOOKED_AT then
  finding("logbytes", id, "has " .. bytes .. " bytes in its log, and counts " .. shown(f[6]), function()
    call("HSET", room_key, "logbytes", bytes)
  end)
end
if highest > seq then
  finding("seq", id, "is at seq " .. number(seq) .. ", and knows an event " .. number(highest), function()
    call("HSET", room_key, "seq", number(highest))
  end)
end
local newest = tonumber(call("HGET", control .. "clock", "epoch") or 0)
if newest < tonumber(epoch) then
  finding("epoch", id, "has epoch " .. epoch .. ", and the newest given out is " .. number(newest), function()
    call("HSET", control .. "clock", "epoch", epoch)
  end)
end
local size = call("ZCARD", members)
if size ~= call("HLEN", info) then
  -- The pages of members say who, and repair it.
  finding("count", id, "has " .. size .. " members, and the info of " .. call("HLEN", info))
end
local due = call("ZSCORE", part .. "due", id .. NUL .. epoch)
if size > 0 then
  if deadline or due then
    finding("deadline", id, "has " .. size .. " members, and is to be destroyed at " .. shown(deadline or due), function()
      call("HDEL", room_key, "deadline")
      call("ZREM", part .. "due", id .. NUL .. epoch)
      keep_for(part, id, 0)
    end)
  elseif call("PTTL", room_key) > 0 then
    finding("expires", id, "has " .. size .. " members, and expires", function() keep_for(part, id, 0) end)
  end
else
  local till = whole(deadline)
  if not till or till > now_ms + longest * 1000 + SLACK_MS then
    finding("deadline", id, "is empty, and is to be destroyed at " .. shown(deadline), function()
      call("ZREM", part .. "due", id .. NUL .. epoch)
      emptied(part, id, { epoch = epoch, seq = seq, delay = f[4] }, now_ms)
    end)
  elseif till > now_ms and tonumber(due or "") ~= till then
    finding("undue", id, "is empty until " .. deadline .. ", and will be destroyed at " .. shown(due), function()
      call("ZADD", part .. "due", till, id .. NUL .. epoch)
    end)
  elseif till > now_ms and call("PTTL", room_key) < 0 then
    finding("stays", id, "is empty, and would stay for ever without a gateway", function()
      keep_for(part, id, till - now_ms + ORPHAN_MS)
    end)
  elseif till < now_ms - SLACK_MS then
    finding("overdue", id, "should have been destroyed at " .. deadline, function()
      load(part, id, now_ms)
    end)
  end
end
-- What only says that something may be there.
local flags = call("HMGET", room_key, "attrs", "bequests", "blocked")
local function flagged(i, name, why)
  if flags[i] ~= "1" and (why or flags[i]) then
    finding("flag", id, "has " .. (why or "nothing of the kind") .. ", and says of " .. name .. " " .. shown(flags[i]),
      function()
        call("HSET", room_key, name, "1")
      end)
  end
end
local attrs = key(part, "attrs", id)
local keys, attribute_bytes, goes = call("HLEN", attrs), 0, nil
if keys > max_keys then
  finding("attributes", id, "has " .. keys .. " attributes, more than " .. max_keys)
else
  local fields = call("HGETALL", attrs)
  for i = 1, #fields, 2 do
    local k, v = fields[i], fields[i + 1]
    local leaves, text = v:match("^[^%z]*%z([01])%z(.*)$")
    if not leaves then
      finding("damaged", id, "has the attribute " .. shown(k) .. ", which is " .. shown(v:sub(1, 60)), function()
        call("HDEL", attrs, k)
      end)
    else
      attribute_bytes = attribute_bytes + #k + #text
      goes = goes or leaves == "1" and "an attribute that goes with its owner"
    end
  end
  if attribute_bytes > max_bytes then
    finding("attributes", id, "has attributes of " .. attribute_bytes .. " bytes, more than " .. max_bytes)
  end
end
flagged(1, "attrs", keys > 0 and "attributes")
flagged(2, "bequests", goes)
flagged(3, "blocked", call("EXISTS", key(part, "blocked", id)) == 1 and "blocked users")
local upkeep = call("HMGET", room_key, "attrseq", "leftat", "leftseq")
for i, name in ipairs({ "attrseq", "leftat", "leftseq" }) do
  local v, last = upkeep[i], name == "leftat" and now_ms + SLACK_MS or math.max(seq, highest)
  if v and (not whole(v) or whole(v) > last) then
    finding("damaged", id, "has the " .. name .. " " .. shown(v) .. ", it is at most " .. number(last), function()
      call("HDEL", room_key, name)
    end)
  end
end
if (upkeep[2] == false) ~= (upkeep[3] == false) then
  finding("damaged", id, "has the leftat " .. shown(upkeep[2]) .. " and the leftseq " .. shown(upkeep[3]), function()
    call("HDEL", room_key, "leftat", "leftseq")
  end)
end
for _, kind in ipairs({ "left", "log" }) do
  if call("PTTL", key(part, kind, id)) == -1 then
    finding("stays", key(part, kind, id), "does not expire", function()
      call("PEXPIRE", key(part, kind, id), log_ttl)
    end)
  end
end
return reply
