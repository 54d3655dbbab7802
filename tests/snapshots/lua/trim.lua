#!lua flags=allow-oom
--[[ Drops the ledger's entries up to a sequence, once they are kept elsewhere. What each balance had at its last
dropped entry stays, so that the rest of the ledger still begins where something ended.

Keys   1 cells (hash)  2-5 unused
Args   1 msgpack sequence: last sequence to drop, entries at most
Reply  {1, dropped} there are more; {0, dropped} done.
Writes the totals at the last dropped entries, ledger.
Example {0, 12} ]]
-- Renders an integer for a command. tostring() and .. turn large numbers into exponents.
local function int(n)
  return string.format('%.0f', n)
end
-- Keys that a script finds in its own data. KEYS[1] is hg:{policy/tenant}:cells; all else of the tenant starts
-- with the same tag. Mirrors server/engine/keys.py, and nothing else in Lua builds a key.
local PREFIX = string.sub(KEYS[1], 1, -6)
local LEDGER, TRIMMED, GRANTS = PREFIX .. 'ledger', PREFIX .. 'trimmed', PREFIX .. 'grants'

local function hold_key(id)
  return PREFIX .. 'h:' .. id
end

local function note_key()
  return PREFIX .. 'note'
end

-- '' stands for the standing cells, anything else for the windows of one scope.
local function cell_key(scope)
  if scope == '' then
    return KEYS[1]
  end
  return PREFIX .. 'w:' .. string.sub(scope, 2)
end
--[[ The ledger: a stream with an entry for each step that moved money, numbered 0-1, 0-2, … without gaps. An entry is
one msgpack sequence: at_ms, cause (domain/ledger.py), reference, field, the balance's seven totals before and after. ]]
local NO_TOTALS = string.rep('\0', 49)

-- Sees the stream's type, before anything is written.
local function ledger_look()
  redis.call('XLEN', LEDGER)
end

local function ledger_entry(at_ms, cause, reference, field, before, after)
  return cmsgpack.pack(
    at_ms, cause, reference, field, before and string.sub(before, 1, 49) or NO_TOTALS, string.sub(after, 1, 49)
  )
end

local function ledger_write(entries)
  for _, entry in ipairs(entries) do
    redis.call('XADD', LEDGER, '0-*', 'e', entry)
  end
end

local args = { cmsgpack.unpack(ARGV[1]) }
local entries = redis.call('XRANGE', LEDGER, '-', '0-' .. int(args[1]), 'COUNT', args[2])
if #entries == 0 then
  return { 0, 0 }
end
local totals = {}
for _, entry in ipairs(entries) do
  local _, _, _, field, _, after = cmsgpack.unpack(entry[2][2])
  totals[field] = after
end
local set = {}
for field, after in pairs(totals) do
  set[#set + 1], set[#set + 2] = field, after
end
redis.call('HLEN', TRIMMED)
redis.call('HSET', TRIMMED, unpack(set))
redis.call('XTRIM', LEDGER, 'MINID', '0-' .. int(tonumber(string.sub(entries[#entries][1], 3)) + 1))
return { #entries == args[2] and 1 or 0, #entries }
