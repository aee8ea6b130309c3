-- audit.lua: what an audit finds, and what is meant to be where.

-- Nothing is reported for being late by less than this: the sweep may be at it.
local SLACK_MS = 60000

-- findings adds what is wrong to a reply. mend repairs it, if the audit is to
-- and there is a repair. of is what was stored of the subject, or nil: who looks twice
-- tells by it whether it is still the same that is wrong.
local function findings(reply, repair)
  return function(code, subject, detail, mend, of)
    local n, mending = #reply, mend and repair == "1"
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = code, subject, detail, mending and "1" or "0"
    reply[n + 5] = of or ""
    if mending then
      mend()
    end
  end
end

-- shown is a value that may not be there, for a person to read.
local function shown(value)
  return value and '"' .. value:gsub("%z", "|") .. '"' or "nothing"
end

-- whole reads a whole number that is not negative, or nil.
local function whole(value)
  return value and value:match("^%d+$") and tonumber(value)
end

-- texts_in reads a list as attributes are kept: "length:text" each; nil if it is none.
local function texts_in(list)
  local texts, at = {}, 1
  while at <= #list do
    local length, first = list:match("^(%d+):()", at)
    if not length or first + tonumber(length) > #list + 1 then
      return nil
    end
    texts[#texts + 1] = list:sub(first, first + length - 1)
    at = first + length
  end
  return texts
end
