#!lua flags=allow-oom
--[[ Drops the ledger's entries up to a sequence, once they are kept elsewhere. What each balance had at its last
dropped entry stays, so that the rest of the ledger still begins where something ended.

Keys   1 cells (hash)  2-5 unused
Args   1 msgpack sequence: last sequence to drop, entries at most
Reply  {1, dropped} there are more; {0, dropped} done.
Writes the totals at the last dropped entries, ledger.
Example {0, 12} ]]
-- A key that a script finds in its own data: what is behind the tenant's tag. KEYS[1] is hg:{policy/tenant}:cells; all
-- else of the tenant starts with the same tag. Mirrors server/engine/keys.py, and nothing else in Lua builds a key.
local function tenant_key(rest)
  return string.sub(KEYS[1], 1, -6) .. rest
end

-- What is published when there are new notes, with the tenant's name; and, with the name of a process behind it, when
-- the turn of one of its open calls has come, with the tenant's name and the hold's id.
local NOTED_CHANNEL, TURN_CHANNEL = 'hg:noted', 'hg:turn:'

-- The index of the slot's tenants with notes for the webhook, beside that by due, and the tenant's name in both.
local NOTED_KEY = string.sub(KEYS[4], 1, -4) .. 'noted'
local MEMBER = string.sub(KEYS[1], 5, -8)

local args = { cmsgpack.unpack(ARGV[1]) }
local ledger_key, trimmed_key = tenant_key('ledger'), tenant_key('trimmed')
local entries = redis.call('XRANGE', ledger_key, '-', '0-' .. string.format('%.0f', args[1]), 'COUNT', args[2])
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
local kept_from = tonumber(string.sub(entries[#entries][1], 3)) + 1
redis.call('HLEN', trimmed_key)
redis.call('HSET', trimmed_key, unpack(set))
redis.call('XTRIM', ledger_key, 'MINID', '0-' .. string.format('%.0f', kept_from))
return { #entries == args[2] and 1 or 0, #entries }
