-- together.lua: for scripts that carry out several calls as one. What some of these
-- write to the same index they write at once, when all of them are through: the records
-- that decide have been written by then.

-- What stands in place of a status, for the batcher (roomstore/batcher.go).
local RAISED = "raised"

-- together carries out count calls and gives the list of what is answered to them, or the
-- one answer. Each takes width arguments, the first of them those from ARGV[first] on. One
-- that fails answers so, in a form that no client takes for the end of the list, and the
-- others go on; but where nothing can be written all fail, so that the client hears it. A
-- full Redis refuses a script's first write only: behind a call that frees memory the
-- others find some.
local function together(count, one, first, width)
  if count == 1 then
    return one(unpack(ARGV, first, first + width - 1))
  end
  local replies = {}
  for i = 1, count do
    local ok, reply = pcall(one, unpack(ARGV, first, first + width - 1))
    if not ok and reply:find("READONLY ", 1, true) == 1 then
      error({ err = reply })
    end
    replies[i] = ok and reply or { RAISED, reply }
    first = first + width
  end
  return replies
end

-- How many values one write has at most.
local AT_ONCE = 500

-- What is still to be written: by command and key, a list of values.
local LATER = { SREM = {}, ZREM = {}, SADD = {}, ZADD = {} }

local function write(command, at, values)
  if command == "SREM" then
    call("SREM", at, unpack(values))
  elseif command == "ZREM" then
    call("ZREM", at, unpack(values))
  elseif command == "SADD" then
    call("SADD", at, unpack(values))
  else
    call("ZADD", at, unpack(values))
  end
  LATER[command][at] = nil
end

-- later has a command write to an index: a member, or for ZADD its score and it.
local function later(command, at, value, member)
  local values = LATER[command][at]
  if not values then
    values = {}
    LATER[command][at] = values
  end
  values[#values + 1] = value
  if member then
    values[#values + 1] = member
  end
  if #values >= AT_ONCE then -- seldom
    write(command, at, values)
  end
end

-- make_room has a full Redis refuse none of the writes that follow: it refuses a
-- script's first one, unless that frees memory.
local function make_room(control)
  call("HDEL", control .. "clock", "")
end

-- write_later writes what has gathered, what frees memory first.
local function write_later()
  for _, command in ipairs({ "SREM", "ZREM", "SADD", "ZADD" }) do
    for at, values in pairs(LATER[command]) do
      write(command, at, values)
    end
  end
end
