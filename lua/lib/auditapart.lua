-- auditapart.lua: what auditplace.lua is where the others are in other hash slots. The
-- caller has looked there, and says what there is; what is to be mended there is
-- listed.

local function leased(_, nodes, node)
  return nodes:find(NUL .. node .. NUL, 1, true)
end

local function outdated(value, read)
  return (value or "") ~= read
end

local function record_of(_, _, record)
  return record ~= "over" and record ~= "" and session_record(record) or nil, record == "over"
end

local function place_of(_, _, _, _, partition, m, reservation)
  local p, ticket = reservation:match("^(%d+)%z(%d+)$")
  local r = reservation ~= "" and reservation or nil
  return p == partition and tonumber(ticket) >= tonumber(ticket_of(m.user_slot)), r
end

local function mend_place(part, user_key, id, user, epoch, partition, m)
  list("held", user, m.session, id, ticket_of(m.user_slot), m.node, partition)
end

local function drop_place(part, user_key, id, user, m)
  if m then
    give_place(part, id, user_key, user, m)
  end
end

local function audit_field(finding, user_key, uslot, user, field, value, partitions)
  local kind, id, session = field:match("^([rw]):([^%z]+)%z([^%z]+)$")
  local over = field:match("^e:([^%z]+)$")
  local drop = function() call("HDEL", user_key, field) end
  if over then
    local entry = over .. NUL .. user
    if not call("ZSCORE", uslot .. "parked", entry) then
      finding("forever", "session " .. over .. " of " .. user, "is over, and nobody will see to its rooms", function()
        call("ZADD", uslot .. "parked", number(awake(uslot, (now()))), entry)
      end)
    end
  elseif kind == "w" then
    local entry = session .. NUL .. user .. NUL .. id
    if not value:match("^%d+%z[^%z]+%z%d+%z") then
      finding("damaged", user .. "'s switch to " .. id, "is " .. shown(value), drop)
    elseif not call("ZSCORE", uslot .. "switching", entry) then
      finding("forever", user .. "'s switch to " .. id, "is under way, and nobody will finish it", function()
        call("ZADD", uslot .. "switching", number(awake(uslot, (now()))), entry)
      end)
    end
  elseif kind == "r" then
    local partition = value:match("^(%d+)%z%d+$")
    if not partition or tonumber(partition) >= partitions then
      finding("damaged", user .. "'s place in " .. id, "is " .. shown(value), drop)
    elseif call("HEXISTS", user_key, "s:" .. session) == 0 and call("HEXISTS", user_key, "e:" .. session) == 0 then
      finding("reservation", user .. "'s place in " .. id, "is of session " .. session .. ", which is not there", function()
        -- As if the session had ended: the sweep takes it out of the room, too.
        call("HSET", user_key, "e:" .. session, "timeout")
        call("ZADD", uslot .. "parked", number(awake(uslot, (now()))), session .. NUL .. user)
      end)
    end
  else
    finding("damaged", user_key, "has the field " .. shown(field), drop)
  end
end
