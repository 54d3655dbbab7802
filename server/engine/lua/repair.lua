#!lua
--[[ Gives balances the totals that reconciliation found right, if they are still as it found them. An operator's word.

Keys   1 cells (hash)  2-3 unused  4 index of tenants by due (sorted set)  5 unused
Args   1 msgpack sequence: now_ms (0: ask the store), then per balance: field, cell as found ('': none), granted,
         reversed, charged, held, expired, uncollected, debt
       2 the act (acts.lua)
Reply  {1, now} repaired; {0, now} a balance has changed since, nothing was written; {4, now} something is overdue.
Writes cells, ledger, acts. Of grants kept apart, those used up last are cut where they are more than is available.
Example {1, 1773144000000} ]]
--@include clock
--@include acts
--@include ledger
--@include balance_change

local REPAIR, FIELDS = 13, 9
local args = { cmsgpack.unpack(ARGV[1]) }
local now = clock(args[1])
local fields = { 'due' }
for at = 2, #args, FIELDS do
  fields[#fields + 1] = args[at]
end
local read = redis.call('HMGET', KEYS[1], unpack(fields))
if read[1] and tonumber(read[1]) <= now then
  return { 4, now }
end
local set, entries = {}, {}
for at = 2, #args, FIELDS do
  local field, found = args[at], args[at + 1]
  local raw = read[(at - 2) / FIELDS + 2]
  if (raw or '') ~= found then
    return { 0, now }
  end
  local grants = raw and #raw > BALANCE_SIZE and { cmsgpack.unpack(string.sub(raw, BALANCE_SIZE + 1)) } or nil
  local b = { unpack(args, at + 2, at + 8) }
  local left = b[1] - b[2] - b[5] - b[3] + b[7] - b[4]
  for grant = FIRST_GRANT + 2, grants and #grants or 0, GRANT_SIZE do
    grants[grant] = math.max(math.min(grants[grant], left), 0)
    left = left - grants[grant]
  end
  local new = balance_packed(b, grants)
  set[#set + 1], set[#set + 2] = field, new
  entries[#entries + 1] = { now, REPAIR, '', field, raw, new }
end
redis.call('XLEN', tenant_key('ledger'))
local acted_ms = last_act()
redis.call('HSET', KEYS[1], unpack(set))
write_ledger(entries)
write_act(ARGV[2], acted_ms, now, '', '')
return { 1, now }
