-- greet.lua says which term this is: a name for what is stored, which ends when
-- that is lost or rolled back. It begins a new one where Redis has been started
-- anew, since it may have come back with less, and where none is stored. It
-- also holds every gateway to one number of partitions: the first to come
-- writes it down.
--
-- Unguarded  it is how a gateway learns of the term
--
-- Uses     value clock term
--
-- KEYS[1]  partitions  string  how many there are
-- KEYS[2]  term        string  the term; with "NUL time" until it is open
-- KEYS[3]  origin      string  "run_id NUL settles NUL opened" of the term
-- KEYS[4]  control     prefix  of clock
--
-- ARGV[1]  partitions
-- ARGV[2]  knew        the term that the gateway has acted under, "" for none
-- ARGV[3]  fresh       a name that no term has had
-- ARGV[4]  settle_ms   how long gateways may put back what they know
-- ARGV[5]  ask         "1" if this Redis can be asked for its run_id
--
-- Returns  {"ok", term, ms}   ms until it is open, and scripts act under it
--          {"partitions", n}  the deployment has n, not the number given

local partitions_key, term_key, origin_key, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local wanted, knew, fresh, settle_ms, ask = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local n = call("GET", partitions_key)
if n and n ~= wanted then
  return { "partitions", n }
end
local now_ms = now()
local run_id = ask == "1" and call("INFO", "server"):match("run_id:(%w+)") or ""
local term, open_at = read_term(term_key)
local origin, settles, opened = read_origin(origin_key)

-- A gateway that began on empty data did not know that others had had more.
local begins = term == "" or origin ~= run_id or settles == "0" and knew ~= "" and knew ~= term
local before = term
local opens = open_at ~= "" and (now_ms >= tonumber(open_at) or tonumber(open_at) > now_ms + settle_ms)
if begins then
  local first = term == "" and knew == ""
  term, open_at = fresh, first and "" or number(now_ms + settle_ms)
  settles, opened = first and "0" or "1", ""
elseif opens then
  open_at, opened = "", number(now_ms)
end
if begins or opens then
  -- The first write frees memory, so that a full Redis can be greeted.
  call("UNLINK", term_key)
  call("SET", origin_key, run_id .. NUL .. settles .. NUL .. opened)
  call("SET", term_key, open_at == "" and term or term .. NUL .. open_at)
end
if begins then
  -- What is stored holds all that happened up to some time under the term before:
  -- a room of then that is not there had ended.
  local clock = control .. "clock"
  call("HSET", clock, "before", before, "upto", call("HGET", clock, "epoch") or "0")
end
if not n then
  call("SET", partitions_key, wanted)
end
return { "ok", term, open_at == "" and "0" or number(tonumber(open_at) - now_ms) }
