-- describe.lua: what backends are told of a room.

-- describe adds to a reply: epoch, seq, name, members, delay, created, deadline, each
-- of the room as load gives it, deadline "" while somebody is in it; and behind them,
-- if all is set, how many attributes it has, and key and value of each, else "0".
-- For no room epoch is "", and so are the others.
local function describe(reply, part, id, room, all)
  local n = #reply
  if not room then
    for i = 1, 7 do
      reply[n + i] = ""
    end
    reply[n + 8] = "0"
    return
  end
  reply[n + 1], reply[n + 2], reply[n + 3] = room.epoch, number(room.seq), room.name
  reply[n + 4], reply[n + 5] = number(call("ZCARD", key(part, "members", id))), room.delay
  reply[n + 6], reply[n + 7] = call("HGET", key(part, "room", id), "created"), room.deadline or ""
  reply[n + 8] = "0"
  if all and room.attrs then
    local attrs = key(part, "attrs", id)
    local fields = call("HGETALL", attrs)
    reply[n + 8] = number(#fields / 2)
    for i = 1, #fields, 2 do
      reply[#reply + 1] = fields[i]
      reply[#reply + 1] = attribute(fields[i + 1]).value
    end
  end
end
