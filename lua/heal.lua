-- heal.lua puts back what a gateway knows of a room that Redis may have lost or
-- rolled back. If it knows of more than Redis has, a new epoch begins, so that no
-- client ever sees two events under one position; otherwise nothing changes.
-- Any number of gateways may report a room, in any order and again.
--
-- Unguarded  it takes the term that the gateway is about to act under
--
-- Uses     value clock session place limits room log attributes depart join term
--
-- KEYS[1]  partition  prefix  of the keys in the room's partition
-- KEYS[2]  control    prefix  of clock and dead
-- KEYS[3]  term       string
-- KEYS[4]  origin     string  of the term
--
-- ARGV[1]   now_term     the term
-- ARGV[2]   knew         the term under which the gateway came to know the room
-- ARGV[3]   witness_ms   "" for a gateway that had the members' sockets all the
--                        time; for a client that says it was in the room: for how
--                        long after the term opened its word counts
-- ARGV[4]   node
-- ARGV[5]   room
-- ARGV[6]   number_of_partition  of the room
-- ARGV[7]   epoch        in which the gateway knows the room
-- ARGV[8]   seq          up to where
-- ARGV[9]   lineage      epochs that this one goes back to: ",", or ",epoch,…,"
-- ARGV[10]  name
-- ARGV[11]  delay        seconds
-- ARGV[12]  keep         "0": an emptied room loses name and attributes
-- ARGV[13]  message_seq  the highest seen
-- ARGV[14]  order_key    likewise
-- ARGV[15]  attributes   list of keys and fields of attrs; "-" if not known
-- ARGV[16]  max_members     asked of a client only
-- ARGV[17]  max_user_rooms  likewise
-- ARGV[18]  count        of the members; six arguments each follow
-- ARGV[19]  user, session, generation, entered, user_slot, data, …
--
-- Returns  {"ok", epoch, session, …}  the room's epoch now, and those of the
--                         sessions that are not put back: they are elsewhere, or
--                         their place is another's
--          {"recreated"}  the room is in a life that has nothing to do with epoch,
--                         or in none, since it had ended before the term began
--          {"noroom"}     a client is no witness to a whole room
--          {"late"}       the word of a client does not count now
--          {"term"}       the term is another
--          {"fenced"}     the node has been given up
--
-- Publishes  "healed" on the life channel for a new epoch, and the end of an
-- older life that it takes the place of. Else nothing in the room while nobody acts
-- under the term; afterwards "h" for a new epoch, and "j" for members that were
-- missing.

local part, control, term_key, origin_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now_term, knew, witness_ms, node = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local id, partition, epoch, seq, lineage = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local name, delay, keep = ARGV[10], ARGV[11], ARGV[12]
local message_seq, order_key, attributes = tonumber(ARGV[13]), tonumber(ARGV[14]), ARGV[15]
local max_members, max_user_rooms = tonumber(ARGV[16]), tonumber(ARGV[17])
local reported = {}
for i = 1, tonumber(ARGV[18]) do
  reported[i] = {
    user = ARGV[13 + 6 * i], session = ARGV[14 + 6 * i], generation = ARGV[15 + 6 * i],
    entered = ARGV[16 + 6 * i], user_slot = ARGV[17 + 6 * i], node = node, data = ARGV[18 + 6 * i],
  }
end

-- How many earlier epochs are remembered.
local LINEAGE = 8
-- How many events more than Redis has a client is believed to have seen: seqs
-- must stay far below 2^53, whatever it says.
local BELIEVED = 1000000

-- Decide.
local term, open_at = read_term(term_key)
if term ~= now_term then
  return { "term" }
end
if dead(control, node) then
  return { "fenced" }
end
local now_ms, now_us = now()
local late, client = open_at == "", witness_ms ~= ""
if client then
  local _, settles, opened = read_origin(origin_key)
  if settles ~= "1" or opened == "" or now_ms > tonumber(opened) + tonumber(witness_ms) then
    return { "late" }
  end
end

local room_key, info, members = key(part, "room", id), key(part, "info", id), key(part, "members", id)
local f = call("HMGET", room_key, "epoch", "seq", "deadline", "delay", "name", "messageSeq", "order",
  "term", "prior", "base", "from", "healed")
local room = {
  epoch = f[1], seq = tonumber(f[2] or 0), deadline = f[3], delay = f[4], name = f[5],
  message_seq = tonumber(f[6] or 0), order = tonumber(f[7] or 0), log_bytes = 0,
  term = f[8] or "", prior = f[9] or "", base = tonumber(f[10] or 0), from = f[11] or ",", healed = f[12] or "",
}

-- has says whether a lineage names an epoch.
local function has(list, one)
  return list:find("," .. one .. ",", 1, true) ~= nil
end

-- kin says whether two lineages have an epoch in common.
local function kin(a, b)
  for one in a:gmatch("%d+") do
    if has(b, one) then
      return true
    end
  end
  return false
end

-- known is up to where Redis's events of this epoch are those that the gateway
-- had: all, if it knew the room under this term or nobody has touched it since;
-- those from before the term, if it missed no other term; none for certain else.
local function known()
  if room.term == knew then
    return room.seq
  elseif room.term == now_term and room.prior == knew then
    return room.base
  end
  return -1
end

local verdict
if not room.epoch then
  verdict = "missing"
elseif room.epoch == epoch then
  if client then
    verdict = seq > room.seq and room.healed ~= now_term and "lost" or "same"
  elseif room.healed == now_term and knew ~= now_term then
    -- It began under this term, so nothing of it is lost; the gateway has heard of it
    -- before it acts under the term, and may not have put back all its members.
    verdict = "merge"
  else
    verdict = seq > known() and "lost" or "same"
  end
elseif has(lineage, room.epoch) then
  verdict = "lost" -- what Redis has is from before a healing
elseif has(room.from, epoch) or kin(room.from, lineage) then
  verdict = "merge"
elseif not client and tonumber(epoch) > tonumber(room.epoch) and not (room.term == now_term and room.base == 0) then
  verdict = "older" -- a life of the room that had ended
else
  return { "recreated" }
end
if client and verdict == "missing" then
  return { "noroom" }
end
if verdict == "missing" and knew ~= "" then
  local stored = call("HMGET", control .. "clock", "before", "upto")
  if stored[1] == knew and tonumber(epoch) <= tonumber(stored[2]) then
    return { "recreated" } -- its beginning is not lost, so neither is its end
  end
end
if client and seq > room.seq + BELIEVED then
  return { "late" }
end

-- Apply. The first write frees memory, so that a full Redis takes back what it had.
local clock = control .. "clock"
local newest = math.max(tonumber(call("HGET", clock, "epoch") or 0), tonumber(epoch), tonumber(room.epoch or 0))
call("HDEL", clock, "epoch")

local function set_attributes()
  if attributes == "-" then
    return
  end
  local texts = texts_of(attributes)
  call("UNLINK", key(part, "attrs", id))
  call("HSET", room_key, "attrseq", seq)
  if #texts > 0 then
    call("HSET", room_key, "attrs", "1")
  end
  for i = 1, #texts, 2 do
    call("HSET", key(part, "attrs", id), texts[i], texts[i + 1])
    if attribute(texts[i + 1]).leaves == "1" then
      call("HSET", room_key, "bequests", "1")
    end
  end
end

if room.term ~= now_term then
  room.prior, room.base, room.term = room.term, room.seq, now_term
end
local silent = not late
if verdict == "missing" or verdict == "older" or verdict == "lost" then
  if verdict == "older" then
    finish(part, id, room, "destroyed", now_ms)
    room.seq, room.deadline, room.from = 0, nil, ","
  end
  local before = lineage
  if room.epoch and verdict == "lost" then
    before = "," .. room.epoch .. room.from .. lineage
    if room.deadline then
      call("ZREM", part .. "due", id .. NUL .. room.epoch)
    end
  end
  room.from = ","
  local n = 0
  for one in ("," .. epoch .. before):gmatch("%d+") do
    if n < LINEAGE and not has(room.from, one) then
      room.from, n = room.from .. one .. ",", n + 1
    end
  end
  newest = math.max(now_us, newest + 1)
  room.epoch, room.seq = number(newest), math.max(room.seq, seq) + 1
  room.base, room.healed = room.seq, now_term
  room.message_seq, room.order = math.max(room.message_seq, message_seq), math.max(room.order, order_key)
  if verdict == "lost" then
    call("UNLINK", key(part, "log", id), key(part, "left", id))
    call("HDEL", room_key, "deadline", "logbytes", "leftat", "leftseq")
    keep_for(part, id, 0)
    -- What is known of now is newer than what is stored.
    call("HDEL", room_key, "attrseq")
    if not client then
      set_attributes()
    end
  else
    silent = true -- nobody is there to be told
    call("UNLINK", unpack(room_keys(part, id)))
    room.name, room.delay = name, delay
    call("HSET", room_key, "name", name, "delay", delay, "created", number(now_ms), "creator", "")
    if keep == "0" then
      call("HSET", room_key, "keep", "0")
    end
    set_attributes()
    call("ZADD", part .. "rooms", 0, id)
    uncount(control)
  end
  room.deadline = nil
  call("PUBLISH", part .. "life", "healed" .. NUL .. room.epoch .. NUL .. epoch .. NUL .. id)
  if late then
    publish(part, id, event(room.epoch, number(room.seq), "h", number(now_ms), "", "", "", room.from, ""))
  end
elseif verdict == "merge" and room.epoch ~= epoch then
  if not has(room.from, epoch) then
    room.from = "," .. epoch .. room.from
  end
  if not late then
    room.seq = math.max(room.seq, seq + 1)
    room.base = room.seq
    room.message_seq, room.order = math.max(room.message_seq, message_seq), math.max(room.order, order_key)
    -- The report that knew the most of the room counts.
    if room.healed == now_term and seq > tonumber(call("HGET", room_key, "attrseq") or -1) then
      set_attributes()
    end
  end
end
call("HSET", clock, "epoch", number(newest))
call("HSET", room_key, "epoch", room.epoch, "seq", number(room.seq), "messageSeq", number(room.message_seq),
  "order", number(room.order), "term", room.term, "prior", room.prior, "base", number(room.base), "from", room.from,
  "healed", room.healed)

-- place makes a member of who was one, without a word.
local function place(who, m)
  if m and m.node == "" then
    call("ZREM", part .. "parked", m.session .. NUL .. who.user .. NUL .. id)
  elseif m and m.node ~= node then
    call("SREM", key(part, "node", m.node), who.user .. NUL .. id)
  end
  who.joined = m and m.joined or ""
  call("HSET", info, who.user, membership_value(who))
  call("SADD", key(part, "node", node), who.user .. NUL .. id)
  hold_place(key(slot(part, who.user_slot), "user", who.user), id, room.epoch, partition, who.session)
end

-- ended says whether a membership has ended since everybody acts under the term.
local function ended(who)
  local gone = late and not silent and call("HGET", key(part, "gone", who.session), id)
  return gone and gone:match("^[^%z]*") == room.epoch
end

-- barred says whether a client may not be let in on its word.
local function barred(who, user_key)
  if not client then
    return false
  end
  local till = tonumber(call("HGET", key(part, "blocked", id), who.user) or -1)
  return till == 0 or till > now_ms or call("ZCARD", members) >= max_members
    or rooms_of_user(part, user_key, who.user, max_user_rooms) >= max_user_rooms
end

local reply = { "ok", room.epoch }
for i = 1, #reported do
  local who = reported[i]
  local user_key = key(slot(part, who.user_slot), "user", who.user)
  local m = membership(call("HGET", info, who.user))
  if not acts_on(user_key, who.session, who.generation, node) or m and newer(m, who) then
    reply[#reply + 1] = who.session
  elseif m and m.session == who.session then
    place(who, m)
  elseif verdict == "same" and not client then
    -- It has left, and its gateway will hear of it.
  elseif m and (late or tonumber(m.generation) > tonumber(who.generation)) or ended(who) or barred(who, user_key)
    or stale(part, who.session, id, who.user_slot) then
    reply[#reply + 1] = who.session
  elseif silent then
    if not m then
      call("ZADD", members, who.entered, who.user)
    end
    place(who, m)
    if room.deadline then
      call("HDEL", room_key, "deadline")
      call("ZREM", part .. "due", id .. NUL .. room.epoch)
      keep_for(part, id, 0)
      room.deadline = nil
    end
  else
    join(part, id, room, user_key, who.user, who, nil, call("ZCARD", members), partition, nil, nil, nil, now_ms)
  end
end
return reply
