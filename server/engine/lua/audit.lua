#!lua flags=no-writes
--[[ Reads what stands behind balances, at one instant: for reconciliation and for statements.

Keys   1 cells (hash)  2-5 unused
Args   1 msgpack sequence: now_ms (0: ask the store), how many open holds to pass over, fields of balances
Reply  {0, now, sequence, open, balances} the ledger's last sequence, the number of entries in the due set, and a
       msgpack array, per field: cell or '', schedule or '', cell at the last trim or '', units that open holds keep, of
       MOST_HOLDS behind those that were passed over; {4, now} something is overdue: call reap, then ask again.
Writes nothing.
Example {0, 1773144000000, 12, 7, <'...', '', '', 30>} ]]
--@include clock
--@include keys
--@include hold
--@include due_ids

-- Open holds that one call looks at; mirrored in wire_money.py.
local MOST_HOLDS = 500
local BALANCE_KIND = 5 -- as in domain/limits/base.py

local args = { cmsgpack.unpack(ARGV[1]) }
local now = clock(args[1])
local first, fields = args[2], { unpack(args, 3) }
local cells = redis.call('HMGET', KEYS[1], 'due', unpack(fields))
if cells[1] and (tonumber(cells[1]) or error('CORRUPT the earliest lease end')) <= now then
  return { 4, now }
end
local last = redis.call('XREVRANGE', tenant_key('ledger'), '+', '-', 'COUNT', 1)[1]
local kept = {}
local ids = redis.call('ZRANGE', KEYS[3], first, first + MOST_HOLDS - 1)
for _, id in ipairs(ids) do
  local raw = id ~= GRANTS_DUE and id ~= LIMITS_DUE and redis.call('GET', tenant_key('h:' .. id))
  local hold, at = {}, 0
  if raw then
    hold, at = hold_read(raw)
  end
  for take = at + 1, #hold, TAKE_SIZE do
    if hold[take] == BALANCE_KIND then
      local meter = hold[take + 1]
      local total = meter > 0 and hold[meter * METER_SIZE + REPORTED] or 0
      local charged = math.max(total - hold[take + 6], 0)
      kept[hold[take + 3]] = (kept[hold[take + 3]] or 0) + math.max(hold[take + 4] - charged, 0)
    end
  end
end
local balances = {}
if #fields > 0 then
  local schedules = redis.call('HMGET', tenant_key('grants'), unpack(fields))
  local trimmed = redis.call('HMGET', tenant_key('trimmed'), unpack(fields))
  for index, field in ipairs(fields) do
    local n = #balances
    balances[n + 1], balances[n + 2] = cells[index + 1] or '', schedules[index] or ''
    balances[n + 3], balances[n + 4] = trimmed[index] or '', kept[field] or 0
  end
end
local sequence = last and tonumber(string.sub(last[1], 3)) or 0
return { 0, now, sequence, redis.call('ZCARD', KEYS[3]), cmsgpack.pack(balances) }
