#!lua
--[[ Changes an account record by compare-and-set, adds units to balances or takes them back, books use of quotas, or
all of it, in one step.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)  5 unused
       6 ids of writes already made (hash)
Args   1 msgpack sequence: now_ms (0: ask the store), tenant's member in the index, replaces the record (1 or 0),
         expected version, record, write id ('': the version alone guards), fingerprint, cause (domain/ledger.py),
         number of changes, per change: field, units (below 0: taken back), source, expires_ms, burn order ('': not
         kept apart), ledgered (1 or 0), debt bound, marks ('': none; else a msgpack sequence); then number of refills,
         per refill: field, ledgered, plan, ceiling, cycle_ms, next_ms, raises (1: at once, once per plan and cycle);
         then number of uses, per use: field, limit, terms, cycle (quota.lua), units; then number of allocations, per
         allocation: field, name, units; then when time next changes an allowance with thresholds (NEVER: it does not)
       2 when an operator's act is to be told: the act, with what it was and is (acts.lua)
Reply  {1, account, results, waits} written, waits: 1 when somebody waits in a queue, for whom reap must look whether
       the turn has come; {2, account, results, 0} this id was written before, with equal content;
       {3, account} the version is another one; {4, now} something is overdue: call reap, then ask again;
       {5, account} a balance would pass 2^53 - 1; {6, account} this id was written before with other content;
       {7, account} a balance would have too many grants; {8, account} a grant would be over already;
       {9, account} the tenant is being deleted.
       results: msgpack array, units changed per change.
Writes cells, account, ids, grants, due and index, ledger, allocations, notes, acts. Ids stay as long as the account.
Example {1, '{"plan":"free",...}', <10>} ]]
--@include clock
--@include grants_change
--@include balance_return
--@include quota
--@include quota_finish
--@include count_layout
--@include allocations
--@include queues
--@include acts
--@include version

local UPGRADE, CHANGE_SIZE, REFILL_SIZE, USE_SIZE, ALLOCATION_SIZE = 7, 8, 7, 5, 3
local args = { cmsgpack.unpack(ARGV[1]) }
local now, member, replaces, expected, record = clock(args[1]), args[2], args[3] == 1, args[4], args[5]
local write_id, fingerprint, cause, changes = args[6], args[7], args[8], args[9]
local refills_at = 10 + changes * CHANGE_SIZE
local refills = args[refills_at]
local uses_at = refills_at + 1 + refills * REFILL_SIZE
local uses = args[uses_at]

local fields, known_fields = { 'v', 'due' }, {}
local function field_wanted(field)
  if not known_fields[field] then
    known_fields[field] = true
    fields[#fields + 1] = field
  end
end
for change = 0, changes - 1 do
  field_wanted(args[10 + change * CHANGE_SIZE])
end
for refill = 0, refills - 1 do
  field_wanted(args[refills_at + 1 + refill * REFILL_SIZE])
end
local balances_last = #fields
for use = 1, uses do
  fields[balances_last + use] = args[uses_at + 1 + (use - 1) * USE_SIZE]
end

local allocations_at = uses_at + 1 + uses * USE_SIZE
local allocations = args[allocations_at]
local limits_ms = args[allocations_at + 1 + allocations * ALLOCATION_SIZE]
for allocation = 1, allocations do
  fields[balances_last + uses + allocation] = args[allocations_at + 1 + (allocation - 1) * ALLOCATION_SIZE]
end

local stored = redis.call('GET', KEYS[2]) or ''
local known = redis.call('HGET', KEYS[6], write_id)
local read = redis.call('HMGET', KEYS[1], unpack(fields))
if read[2] and (tonumber(read[2]) or error('CORRUPT the earliest lease end')) <= now then
  return { 4, now }
end
if known and write_id ~= '' then
  local same = string.sub(known, 1, #fingerprint) == fingerprint
  return { same and 2 or 6, stored, string.sub(known, #fingerprint + 1), 0 }
end
if account_version(read[1]) < 0 then
  return { 9, stored }
end
if replaces and account_version(read[1]) ~= expected then
  return { 3, stored }
end

local raws, schedules, entries, results, falls = {}, {}, {}, {}, nil
for index = 3, balances_last do
  raws[fields[index]] = read[index]
end
if balances_last > 2 then
  local scheduled = redis.call('HMGET', tenant_key('grants'), unpack(fields, 3, balances_last))
  for index = 3, balances_last do
    schedules[fields[index]] = scheduled[index - 2] and schedule_read(scheduled[index - 2])
  end
  redis.call('XLEN', tenant_key('ledger'))
end

local function moved(field, b, grants, ledgered, why)
  local raw = balance_packed(b, grants)
  if ledgered == 1 then
    entries[#entries + 1] = { now, why, write_id, field, raws[field], raw }
  end
  raws[field] = raw
end

for change = 0, changes - 1 do
  local at = 10 + change * CHANGE_SIZE
  local field, units, source, expires_ms, order, ledgered, bound, marks = unpack(args, at, at + CHANGE_SIZE - 1)
  local b, available, grants = balance_open(raws[field])
  local had = left_of(b)
  if units >= 0 then
    local repaid = math.min(b[7], units) -- what comes in pays back what is owed
    b[1], b[7] = b[1] + units, b[7] - repaid
    if b[1] >= 9007199254740992 then
      return { 5, stored }
    end
    if order ~= '' and not (source == MONTHLY and expires_ms == NEVER) then
      grants = grants or { order, ledgered }
      grants[1], grants[2] = order, ledgered
      if expires_ms <= now then
        return { 8, stored }
      end
      if not grants_kept().add(grants, source, expires_ms, units - repaid) then
        return { 7, stored }
      end
      if expires_ms < NEVER then
        schedules[field] = schedules[field] or { ledgered, NEVER, 0 }
      end
    end
  else
    units = take_back(b, available, grants, grants and source .. grants[1], -units, bound)
    if b[2] >= 9007199254740992 then
      return { 5, stored }
    end
  end
  if marks ~= '' then
    falls = marks_reached(falls, field, { cmsgpack.unpack(marks) }, 1, had, left_of(b))
  end
  results[change + 1] = units
  if units > 0 then
    moved(field, b, grants, ledgered, cause)
  else
    raws[field] = balance_packed(b, grants)
  end
end

for refill = 0, refills - 1 do
  local at = refills_at + 1 + refill * REFILL_SIZE
  local field, ledgered, plan, ceiling, cycle_ms, next_ms, raises = unpack(args, at, at + 6)
  local schedule = schedules[field]
  if not schedule or schedule[2] == NEVER then
    schedules[field] = { ledgered, next_ms, cycle_ms, plan }
  elseif raises == 1 then
    local refilled = false
    for index = 4, #schedule do
      refilled = refilled or schedule[index] == plan
    end
    if not refilled then
      schedule[#schedule + 1] = plan
      local b, available, grants = balance_open(raws[field])
      if top_up(b, available, ceiling) then
        moved(field, b, grants, ledgered, UPGRADE)
      end
    end
  end
end

local cells, kept, due = {}, {}, NEVER
for index = 3, balances_last do
  local field = fields[index]
  if raws[field] then
    cells[#cells + 1], cells[#cells + 2] = field, raws[field]
  end
  if schedules[field] then
    local _, _, grants = balance_open(raws[field])
    due = math.min(due, next_change(schedules[field], grants))
    kept[#kept + 1], kept[#kept + 2] = field, cmsgpack.pack(unpack(schedules[field]))
  end
end
for use = 1, uses do
  local field, limit, terms, cycle, units = unpack(args, uses_at + 1 + (use - 1) * USE_SIZE, uses_at + use * USE_SIZE)
  local _, _, _, cell = quota_check(read[balances_last + use], now, 0, 0, limit, terms)
  cells[#cells + 1] = field
  cells[#cells + 1] = quota_finish(cell, SETTLE, false, 0, now, cycle, 0, units, now)
end
-- An allocation that stands under its name already is left alone.
local counts, stands, counted, stood = {}, {}, counts_kept(), allocations_kept()
for allocation = 1, allocations do
  local at = allocations_at + 1 + (allocation - 1) * ALLOCATION_SIZE
  local field, name, units = unpack(args, at, at + 2)
  local standing, held = counted.read(counts[field] or read[balances_last + uses + allocation])
  stands[name] = stands[name] or stood.read(name)
  if not stands[name][field] then
    stands[name][field] = units
    counts[field] = counted.packed(standing + units, held)
  end
end
for field, raw in pairs(counts) do
  cells[#cells + 1], cells[#cells + 2] = field, raw
end
local packed_results = cmsgpack.pack(results)
local waits = redis.call('EXISTS', tenant_key('pools'))
queues_kept().look(now, {}) -- finds what is corrupt before anything is written
local acted_ms = ARGV[2] and last_act()
local before = redis.call('ZSCORE', KEYS[3], GRANTS_DUE)
local limits_before = redis.call('ZSCORE', KEYS[3], LIMITS_DUE)
redis.call('ZSCORE', KEYS[4], member)
if falls then
  notes_kept().look()
end

if replaces then
  cells[#cells + 1], cells[#cells + 2] = 'v', string.format('%.0f', expected + 1)
  redis.call('SET', KEYS[2], record)
  stored = record
end
-- Each is written only where it comes earlier than what is known.
local earliest = tonumber(read[2]) or NEVER
local function due_at(at_ms, id, listed_ms)
  if at_ms >= (tonumber(listed_ms) or NEVER) then
    return
  end
  redis.call('ZADD', KEYS[3], string.format('%.0f', at_ms), id)
  if at_ms < earliest then
    earliest = at_ms
    cells[#cells + 1], cells[#cells + 2] = 'due', string.format('%.0f', at_ms)
    redis.call('ZADD', KEYS[4], string.format('%.0f', at_ms), member)
  end
end
due_at(due, GRANTS_DUE, before)
due_at(limits_ms, LIMITS_DUE, limits_before)
if #cells > 0 then
  redis.call('HSET', KEYS[1], unpack(cells))
end
if #kept > 0 then
  redis.call('HSET', tenant_key('grants'), unpack(kept))
end
for name, units in pairs(stands) do
  stood.write(name, units)
end
if write_id ~= '' then
  redis.call('HSET', KEYS[6], write_id, fingerprint .. packed_results)
end
write_ledger(entries)
if falls then
  notes_kept().write(falls, now)
end
if acted_ms then
  write_act(ARGV[2], acted_ms, now, '', '')
end
return { 1, stored, packed_results, waits }
