-- login.lua begins sessions of users. A session of the same device is
-- replaced; what is over the device limit is sent away and its rooms are left.
-- Several calls may go together.
--
-- Uses     value clock session together place limits room log attributes depart
--
-- KEYS[1]  control  prefix  of clock and dead
--
-- ARGV[1]   count        of the sessions
-- ARGV[2]   node
-- ARGV[3]   session_ttl  ms
-- ARGV[4]   max_devices
-- ARGV[5]   log_size     events
-- ARGV[6]   log_bytes
-- ARGV[7]   log_ttl      ms
-- ARGV[8]   gone_ttl     ms
-- ARGV[9]   partitions
-- ARGV[10]  user, user_slot, session, device, valid_until, …
--             user_slot is where the user's hash lives
--             session is the new one
--             device is "" for one of its own
--             valid_until is Redis's time in ms, "" for ever
--
-- Returns  {"ok", generation}
--          {"late"}    the call came after valid_until
--          {"fenced"}  a session of this ID is over, and its places are still to be
--                      seen to, or it was sent away
--          Of several sessions: a list of these.
--          {"fenced"}  the node has been given up: for all of them
--
-- Publishes  an order to close on the channel of each node whose session had
-- to go, and in each room that such a session left what leave does.

local control, count, node = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local session_ttl, max_devices = tonumber(ARGV[3]), tonumber(ARGV[4])
local limits = { size = ARGV[5], bytes = ARGV[6], ttl = ARGV[7], gone = ARGV[8] }
local partitions = tonumber(ARGV[9])

if dead(control, node) then
  return { "fenced" }
end
local now_ms, now_us = now()
local awake_ms = awake(control, now_ms)

local begun = false -- any of them

-- login gives what is answered for one session.
local function login(user, uslot, session, device, valid_until)
  -- Decide.
  if late(now_ms, valid_until) then
    return { "late" }
  end
  local user_key = key(uslot, "user", user)
  local fields = call("HGETALL", user_key)
  if call("HEXISTS", key(uslot, "gone", session), "") == 1 then
    return { "fenced" }
  end
  local replaced, others = {}, {}
  local again -- the same session, if this call is repeated
  local newest = 0 -- generation of the user's: which of two devices came later shows by it
  for i = 1, #fields, 2 do
    if fields[i] == "e:" .. session then
      return { "fenced" }
    end
    local id = fields[i]:match("^s:(.*)$")
    if id then
      local s = session_record(fields[i + 1])
      s.id = id
      newest = math.max(newest, tonumber(s.generation))
      if id == session then
        again = s
      elseif device ~= "" and s.device == device then
        replaced[#replaced + 1] = s
      elseif s.deadline == "" or tonumber(s.deadline) > awake_ms then
        others[#others + 1] = s
      end
    end
  end

  -- Apply and announce.
  if #replaced > 0 or #others >= max_devices then -- seldom
    write_later() -- who has to go may have come just now
    local function drop(s, why, code)
      call("HDEL", user_key, "s:" .. s.id)
      call("ZREM", uslot .. "parked", s.id .. NUL .. user)
      local gone = key(uslot, "gone", s.id)
      call("HSET", gone, "", why)
      call("PEXPIRE", gone, limits.gone)
      forget_outcomes(uslot, partitions, s.id, limits.gone)
      if s.node ~= "" then
        call("SREM", key(uslot, "nodesessions", s.node), s.id .. NUL .. user)
        order(control, user, s.node, code, s.id, number(tonumber(s.generation) + 1))
      end
    end

    for _, s in ipairs(replaced) do
      -- One that was parked already keeps its deadline.
      local deadline = tonumber(s.deadline) or awake_ms + session_ttl
      park_rooms(uslot, user_key, fields, user, s.id, s.node, deadline)
      drop(s, "replaced", "4510")
      outlive(uslot, user_key, fields, user, s.id, deadline)
    end
    write_later()

    -- Parked ones go first, the oldest of them first, then the earliest login.
    table.sort(others, function(a, b)
      if (a.deadline == "") ~= (b.deadline == "") then
        return a.deadline ~= ""
      end
      local x, y = tonumber(a.login), tonumber(b.login)
      if a.deadline ~= "" and a.deadline ~= b.deadline then
        x, y = tonumber(a.deadline), tonumber(b.deadline)
      end
      if x ~= y then
        return x < y
      end
      return a.id < b.id
    end)
    for i = 1, #others + 1 - max_devices do
      local s = others[i]
      for _, r in ipairs(rooms_here(fields, s.id)) do
        local part = slot(uslot, r.partition)
        local room = load(part, r.id, now_ms)
        local m = room and membership(call("HGET", key(part, "info", r.id), user))
        if m and m.session == s.id then
          depart(part, r.id, room, user_key, user, m, "kicked", "", "", limits, now_ms)
        else
          void(part, r.id, user_key, user, s.id, s.node)
        end
      end
      drop(s, "kicked", "4509")
      leave_later(uslot, user_key, fields, user, s.id, s.node, awake_ms)
    end
  end

  local generation, began = number(math.max(newest + 1, now_ms)), number(now_us)
  if again then
    began = again.login
    call("ZREM", uslot .. "parked", session .. NUL .. user)
    if again.node ~= "" then
      call("SREM", key(uslot, "nodesessions", again.node), session .. NUL .. user)
    end
  end
  call("HSET", user_key, "s:" .. session, session_value({
    generation = generation, node = node, deadline = "", login = began, device = device,
  }))
  later("SADD", key(uslot, "nodesessions", node), session .. NUL .. user)
  begun = true
  return { "ok", generation }
end

local replies = {}
for i = 0, count - 1 do
  replies[i + 1] = login(ARGV[10 + 5 * i], slot(control, ARGV[11 + 5 * i]), ARGV[12 + 5 * i], ARGV[13 + 5 * i], ARGV[14 + 5 * i])
end
write_later()
if begun then
  shows_life(control, node, awake_ms)
end
return count > 1 and replies or replies[1]
