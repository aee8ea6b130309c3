-- refused.lua says which commands Redis does not let this user run. It runs none
-- of them.
--
-- Unguarded  it looks at the user's rights only
--
-- KEYS[1]  key  of a room; it need not be there
--
-- ARGV[1]  channel     of a node
-- ARGV[2]  count       of commands; one argument each follows
-- ARGV[3]  command, …  its words, with KEY and CHANNEL for these
--
-- Returns  {"ok", command, …}  those refused; none where Redis cannot be asked

local stands_for = { KEY = KEYS[1], CHANNEL = ARGV[1] }
local count = tonumber(ARGV[2])

local refused = {}
for i = 1, count do
  local command = ARGV[2 + i]
  local words = {}
  for word in command:gmatch("%S+") do
    words[#words + 1] = stands_for[word] or word
  end
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(words)) then
    refused[#refused + 1] = command
  end
end
return { "ok", unpack(refused) }
