#!lua flags=no-writes
--[[ Reads what stands behind balances, at one instant: for reconciliation and for statements.

Keys   1 cells (hash)  2-5 unused
Args   1 msgpack sequence: now_ms (0: ask the store), how many open holds to pass over, fields of balances
Reply  {0, now, sequence, open, balances} the ledger's last sequence, the number of entries in the due set, and a
       msgpack array, per field: cell or '', schedule or '', cell at the last trim or '', units that open holds keep, of
       MOST_HOLDS behind those that were passed over; {4, now} something is overdue: call reap, then ask again.
Writes nothing.
Example {0, 1773144000000, 12, 7, <'...', '', '', 30>} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
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
--[[ A hold's record: msgpack values one behind the other.
1 state  2 created_ms  3 lease's end, in ms since created (0: no lease)  4 longest end, in ms since created
5 figures of the grant (checks.lua)  6 fingerprint and figures key (opaque)  7 lease_ms  8 tombstone_ms  9 note (opaque)
10 number of meters, then per meter: name, reserved, reported (-1: never), uncollected
then the number of takes, then per take: kind, meter (0: follows no report), scope ('' for the standing cells, else the
windows' key behind the tag), field, amount, ms since created, base, last, param (a balance's debt bound; a window's
length in ms, negative where a release returns even the request; a quota's cycle and thresholds, packed)
A balance's bound is -1 - bound where it has a ledger. With what was drawn from grants that are kept apart it is a
msgpack sequence, so that what is not used returns where it came from: the bound, then in turn source, expires_ms,
units. What is charged comes off their front. With marks, too, it is a sequence, whose bound is one itself: the bound,
then the marks, the highest first.
Of a hold that waits in a queue 3 is 0: until when stands in the due set alone, so that a ticket is renewed there. 4
counts from its turn on, and its take of the pool has taken nothing yet (queues.lua).
Once a hold is settled or released, 3, 4, 7 and 8 are 0: a tombstone is kept small. ]]
local ACTIVE, SETTLED, RELEASED, EXPIRED, SETTLED_LATE, DONE, QUEUED, PROMOTED, LEFT = 1, 2, 3, 4, 5, 6, 7, 8, 9
local METERS, METER_SIZE, TAKE_SIZE = 10, 4, 9
-- Added to a meter's number times METER_SIZE: where its values are.
local NAME, RESERVED, REPORTED, UNCOLLECTED = 7, 8, 9, 10

-- Reads a record; second, the index of its number of takes. What is no number fails in the arithmetic.
local function hold_read(raw)
  local hold = { cmsgpack.unpack(raw) }
  local meters = tonumber(hold[METERS]) or -1
  local at = METERS + 1 + meters * METER_SIZE
  if #hold ~= at + (tonumber(hold[at]) or -1) * TAKE_SIZE then
    error('CORRUPT a hold of ' .. #raw .. ' bytes')
  end
  local state, created, lease_in, longest_in, lease_ms = hold[1], hold[2], hold[3], hold[4], hold[7]
  local tombstone_ms = hold[8]
  if
    math.min(state - ACTIVE, LEFT - state, created, lease_in, longest_in, lease_ms, tombstone_ms, meters) < 0
    or (created + lease_in + longest_in + lease_ms + tombstone_ms + state) % 1 ~= 0
    or ((state == ACTIVE or state == QUEUED or state == PROMOTED) and tombstone_ms == 0)
  then
    error('CORRUPT a hold in state ' .. state)
  end
  for name = METERS + 1, at - 1, METER_SIZE do
    if type(hold[name]) ~= 'string' or (hold[name + 1] + hold[name + 2] + hold[name + 3]) % 1 ~= 0 then
      error('CORRUPT a meter of a hold')
    end
  end
  return hold, at
end
-- What is due besides holds, which have no such ids: a change of grants, a change of an allowance with thresholds.
-- Mirrors server/engine/keys.py.
local GRANTS_DUE, LIMITS_DUE = '', '\1'

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
