-- admission.lua: what limits.lua is where rooms that are counted together are in
-- several hash slots (docs/cluster.md). The places are given in the slot of partition
-- 0: a room begins with an admission from there, "number.ticket", and what has ended
-- waits in its partition's list until it is counted out there.
--
-- number is that of the count of this partition's rooms that the admission knows
-- of: if the partition has another one, it may not be among those counted. ticket is
-- the room's, and used up when it is barred.

-- How long a ticket stays barred: longer than a call can be under way.
local BARRED_MS = 120000

local function rooms_full(part, partitions, max_rooms, now_ms)
  return max_rooms > 0 and partitions == 1
    and call("ZCARD", part .. "rooms") - call("ZCOUNT", part .. "due", "-inf", number(now_ms)) >= max_rooms
end

-- count_number gives the number of the count that holds for a partition, "0" for none.
local function count_number(part)
  local n, term = (call("HGET", part .. "clock", "counted") or ""):match("^(%d+)%z(.*)$")
  return term == TERM and n or "0"
end

-- unadmitted gives the number of the partition's count and the ticket up to which the
-- room is barred, if it may not begin with this admission.
local function unadmitted(part, id, max_rooms, partitions, admission)
  if max_rooms == 0 or partitions == 1 then
    return nil
  end
  local number_shown, ticket = admission:match("^(%d+)%.(%d+)$")
  local counted, barred = count_number(part), call("GET", key(part, "barred", id)) or "0"
  if number_shown ~= counted or tonumber(ticket) <= tonumber(barred) then
    return counted, barred
  end
end

-- begin_admission notes with what a room begins. Without an admission the partition's
-- rooms have to be counted again; counted is what clock has of that.
local function begin_admission(control, room_key, admission, counted)
  if admission ~= "" then
    call("HSET", room_key, "admitted", admission:match("%d+$"))
  elseif counted then
    call("HDEL", control .. "clock", "counted")
  end
end

local function admission_of(part, id)
  return call("HGET", key(part, "room", id), "admitted")
end

-- bar_ticket has no room of this ID begin with this ticket or an older one.
local function bar_ticket(part, id, ticket)
  local barred = key(part, "barred", id)
  if tonumber(call("GET", barred) or 0) < tonumber(ticket) then
    call("SET", barred, ticket, "PX", BARRED_MS)
  end
end

-- end_admission notes that a room has ended, which is to be counted out.
local function end_admission(part, id, ticket)
  if ticket then
    bar_ticket(part, id, ticket)
    call("ZADD", part .. "ended", ticket, id)
  end
end

-- uncount has the partition's rooms counted again: one has begun or ended in another
-- way than by an admission.
local function uncount(control)
  call("HDEL", control .. "clock", "counted")
end

-- In the slot of partition 0. admissions has by partition the count that holds for it,
-- "count:" and the partition that which is under way, each "number NUL term", and
-- ready, the term if none is missing.

-- count_of gives the number of a partition's count under this term, or nil.
local function count_of(nodes_part, partition)
  local n, term = (call("HGET", nodes_part .. "admissions", partition) or ""):match("^(%d+)%z(.*)$")
  return term == TERM and n or nil
end

-- uncounted gives those of the partitions whose rooms have to be counted first.
local function uncounted(nodes_part, partitions)
  local missing = {}
  if call("HGET", nodes_part .. "admissions", "ready") ~= TERM then
    for p = 0, partitions - 1 do
      if not count_of(nodes_part, tostring(p)) then
        missing[#missing + 1] = tostring(p)
      end
    end
  end
  return missing
end
