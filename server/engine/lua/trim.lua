#!lua flags=allow-oom
--[[ Drops the ledger's entries up to a sequence, once they are kept elsewhere. What each balance had at its last
dropped entry stays, so that the rest of the ledger still begins where something ended.

Keys   1 cells (hash)  2-5 unused
Args   1 msgpack sequence: last sequence to drop, entries at most
Reply  {1, dropped} there are more; {0, dropped} done.
Writes the totals at the last dropped entries, ledger.
Example {0, 12} ]]
--@include ints
--@include ledger

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
