#!lua
--[[ Changes an account record by compare-and-set, adds units to balances or takes them back, or all of it, in one step.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)  5 unused
       6 ids of writes already made (hash)
Args   1 msgpack sequence: now_ms (0: ask the store), tenant's member in the index, replaces the record (1 or 0),
         expected version, record, write id ('': the version alone guards), fingerprint, cause (domain/ledger.py),
         number of changes, per change: field, units (below 0: taken back), source, expires_ms, burn order ('': not
         kept apart), ledgered (1 or 0), debt bound; then number of refills, per refill: field, ledgered, plan,
         ceiling, cycle_ms, next_ms, raises (1: at once, once per plan and cycle)
Reply  {1, account, results} written; {2, account, results} this id was written before, with equal content;
       {3, account} the version is another one; {4, now} something is overdue: call reap, then ask again;
       {5, account} a balance would pass 2^53 - 1; {6, account} this id was written before with other content;
       {7, account} a balance would have too many grants; {8, account} a grant would be over already.
       results: msgpack array, units changed per change.
Writes cells, account, ids, grants, due and index, ledger. Ids stay as long as the account.
Example {1, '{"plan":"free",...}', <10>} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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
-- Renders an integer for a command. tostring() and .. turn large numbers into exponents.
local function int(n)
  return string.format('%.0f', n)
end
--[[ The grants of a balance that keeps them apart: behind its totals, as one msgpack sequence.
1 burn order (sources as digits)  2 ledgered (1 or 0)  then per grant, by source and expiry: source, expires_ms, left
A grant is all units of one source and one expiry. What of the available units stands in none of them is the first
source's, without an expiry: a balance of nothing else has no sequence. A grant stays until its time is over, even
when nothing is left of it, since a hold may bring something back. ]]
local MONTHLY, NEVER = 1, 9007199254740991
local FIRST_GRANT, GRANT_SIZE, MOST_GRANTS = 3, 3, 64

local grants_functions

-- What there is to do with grants: read, packed, draw, add, give_back.
local function grants_kept()
  if grants_functions then
    return grants_functions
  end

  local function grants_read(packed, available)
    local grants = { cmsgpack.unpack(packed) }
    if type(grants[1]) ~= 'string' or #grants < 5 or (#grants - 2) % GRANT_SIZE ~= 0 then
      error('CORRUPT the grants of a balance')
    end
    for at = 2, #grants do
      local value = grants[at]
      if type(value) ~= 'number' or value < 0 or value > NEVER or value % 1 ~= 0 then
        error('CORRUPT a grant of a balance')
      end
    end
    for at = FIRST_GRANT + 2, #grants, GRANT_SIZE do
      available = available - grants[at]
    end
    if available < 0 then
      error('CORRUPT grants above what is available')
    end
    return grants
  end

  local function grants_packed(grants)
    if not grants or #grants < FIRST_GRANT then
      return ''
    end
    return cmsgpack.pack(unpack(grants))
  end

  -- Takes units out of the grants in this order, of one source the first to expire first. Returns what was drawn, in
  -- turn: source, expires_ms, units.
  local function grants_draw(grants, order, available, units)
    local free = available
    for at = FIRST_GRANT + 2, #grants, GRANT_SIZE do
      free = free - grants[at]
    end
    local draws = {}
    local function drawn(source, expires_ms, from)
      local part = math.min(units, from)
      if part > 0 then
        local n = #draws
        draws[n + 1], draws[n + 2], draws[n + 3] = source, expires_ms, part
        units = units - part
      end
      return part
    end
    for digit in string.gmatch(order, '%d') do
      local source = tonumber(digit)
      for at = FIRST_GRANT, #grants, GRANT_SIZE do
        if grants[at] == source then
          grants[at + 2] = grants[at + 2] - drawn(source, grants[at + 1], grants[at + 2])
        end
      end
      if source == MONTHLY then
        drawn(source, NEVER, free)
      end
    end
    return draws
  end

  -- The index of a grant, or where it belongs and false.
  local function grants_find(grants, source, expires_ms)
    for at = FIRST_GRANT, #grants, GRANT_SIZE do
      if grants[at] == source and grants[at + 1] == expires_ms then
        return at, true
      end
      if grants[at] > source or (grants[at] == source and grants[at + 1] > expires_ms) then
        return at, false
      end
    end
    return #grants + 1, false
  end

  -- Adds units to a grant; false when there would be too many grants.
  local function grants_add(grants, source, expires_ms, units)
    local at, found = grants_find(grants, source, expires_ms)
    if found then
      grants[at + 2] = grants[at + 2] + units
      return true
    end
    if #grants + 1 >= FIRST_GRANT + MOST_GRANTS * GRANT_SIZE then
      return false
    end
    for _, value in ipairs({ units, expires_ms, source }) do
      table.insert(grants, at, value)
    end
    return true
  end

  -- Gives back what was drawn, but for the first `kept` units of it. Returns the units whose grant is over.
  local function grants_return(grants, draws, kept)
    local over = 0
    for at = 2, #draws, 3 do
      local source, expires_ms, units = draws[at], draws[at + 1], draws[at + 2]
      local back = math.max(units - kept, 0)
      kept = math.max(kept - units, 0)
      if back > 0 and not (source == MONTHLY and expires_ms == NEVER) then
        local index, found = grants_find(grants or {}, source, expires_ms)
        if found then
          grants[index + 2] = grants[index + 2] + back
        else
          over = over + back
        end
      end
    end
    return over
  end

  grants_functions = {
    read = grants_read,
    packed = grants_packed,
    draw = grants_draw,
    add = grants_add,
    give_back = grants_return,
  }
  return grants_functions
end
--[[ balance: prepaid units. Twin of server/domain/limits/balance.py. A cell is seven running totals of 7 bytes:
granted, reversed, charged, held, expired, uncollected, debt. Behind them stand its grants, where the policy keeps them
apart and there is more than one (balance_grants.lua).
granted - reversed + debt = available + held + charged + expired. Subtracted in an order that keeps every
intermediate result exact. ]]
local BALANCE, BALANCE_SIZE = '>I7I7I7I7I7I7I7', 49

-- What a request draws from each balance that keeps grants apart, by the cell's field (draws.lua); nil without any.
local DRAWS

-- Returns cap, used, held, reset_ms, wait_ms, and the new raw value (nil when it does not fit or takes nothing).
local function balance_check(raw, _, amount, take, _, order, field)
  if not raw then
    return 0, 0, 0, -1, amount > 0 and -1 or 0
  end
  if #raw < BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  if math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992 then
    error('CORRUPT a balance above 2^53 - 1')
  end
  local available = math.max(granted - reversed - expired - charged + debt - held, 0)
  local grants = #raw > BALANCE_SIZE and grants_kept().read(string.sub(raw, BALANCE_SIZE + 1), available)
  if amount > 0 and amount > available then
    return available + held, held, held, -1, -1
  end
  if not take then
    return available + held, held, held, -1, 0
  end
  local new = struct.pack(BALANCE, granted, reversed, charged, held + take, expired, uncollected, debt)
  if grants then
    if order ~= 0 then
      grants[1] = order
    end
    DRAWS = DRAWS or {}
    DRAWS[field] = grants_kept().draw(grants, grants[1], available, take)
    new = new .. grants_kept().packed(grants)
  end
  return available + held, held, held, -1, 0, new
end

-- {granted, reversed, charged, held, expired, uncollected, debt}, available, grants (nil: none kept apart)
local function balance_open(raw)
  if not raw then
    return { 0, 0, 0, 0, 0, 0, 0 }, 0
  end
  if #raw < BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local b = { struct.unpack(BALANCE, raw) }
  b[8] = nil -- where the next value would begin
  local available = b[1] - b[2] - b[5] - b[3] + b[7] - b[4]
  if #raw == BALANCE_SIZE then
    return b, available
  end
  return b, available, grants_kept().read(string.sub(raw, BALANCE_SIZE + 1), available)
end

local function balance_packed(b, grants)
  if math.min(unpack(b)) < 0 or math.max(unpack(b)) >= 9007199254740992 then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  return struct.pack(BALANCE, b[1], b[2], b[3], b[4], b[5], b[6], b[7])
    .. (grants and grants_kept().packed(grants) or '')
end
--[[ What time does to balances: grants lapse, and a refill tops up to its ceiling when a cycle begins.

GRANTS has, per field of a balance with either: ledgered (1 or 0), refill_ms (the next one; NEVER without), cycle_ms
(start of the cycle that was refilled last), then the plans refilled in that cycle. The sorted set of open holds by
lease end has GRANTS_DUE, an id that no hold has, at the instant of the next change, so that a tenant is found overdue
when it has come. Each instant is a step of its own, in order with the ends of leases: who comes late finds what who
came in time would have found. ]]
local GRANTS_DUE = ''
local LAPSE, REFILL = 5, 6

local function schedule_read(packed)
  local schedule = { cmsgpack.unpack(packed) }
  for index = 1, 3 do
    local value = schedule[index]
    if type(value) ~= 'number' or value < 0 or value > NEVER or value % 1 ~= 0 then
      error('CORRUPT the schedule of a balance')
    end
  end
  return schedule
end

-- When a balance changes next by itself.
local function next_change(schedule, grants)
  local at_ms = schedule and schedule[2] or NEVER
  for at = FIRST_GRANT, grants and #grants or 0, GRANT_SIZE do
    at_ms = math.min(at_ms, grants[at + 1])
  end
  return at_ms
end

-- Raises what is available and held to the ceiling; returns whether that took anything.
local function top_up(b, available, ceiling)
  local units = math.min(math.max(ceiling - math.max(available, 0) - b[4], 0), NEVER - b[1])
  b[1], b[7] = b[1] + units, b[7] - math.min(b[7], units)
  return units > 0
end

-- Drops the grants that are over; returns the units that were left of them.
local function lapse(grants, at_ms)
  local left = 0
  for at = #grants - GRANT_SIZE + 1, FIRST_GRANT, -GRANT_SIZE do
    if grants[at + 1] <= at_ms then
      left = left + grants[at + 2]
      for _ = 1, GRANT_SIZE do
        table.remove(grants, at)
      end
    end
  end
  return left
end

--[[ One step: everything that changes at the next instant, if that has come. `terms` are for refills at `terms_ms`:
per field ledgered, plan, ceiling, cycle_ms, next_ms. Returns nil when done, or the instant for which terms are wanted.
Reads all, then writes. ]]
local function change_grants(now, terms_ms, terms)
  local stored = redis.call('HGETALL', GRANTS)
  local fields, schedules = {}, {}
  for index = 1, #stored, 2 do
    fields[#fields + 1] = stored[index]
    schedules[stored[index]] = schedule_read(stored[index + 1])
  end
  table.sort(fields)
  redis.call('ZSCORE', KEYS[3], GRANTS_DUE)
  if #fields == 0 then
    redis.call('ZREM', KEYS[3], GRANTS_DUE)
    return nil
  end
  local read, raws, at_ms = redis.call('HMGET', KEYS[1], unpack(fields)), {}, NEVER
  for index, field in ipairs(fields) do
    raws[field] = read[index]
    local _, _, grants = balance_open(raws[field])
    at_ms = math.min(at_ms, next_change(schedules[field], grants))
  end
  ledger_look()

  local entries, cells, kept, gone, due = {}, {}, {}, {}, NEVER
  for _, field in ipairs(fields) do
    local schedule = schedules[field]
    local b, available, grants = balance_open(raws[field])
    local function moved(ledgered, cause)
      local raw = balance_packed(b, grants)
      if ledgered == 1 then
        entries[#entries + 1] = ledger_entry(at_ms, cause, '', field, raws[field], raw)
      end
      raws[field] = raw
    end
    if at_ms <= now then
      local left = grants and lapse(grants, at_ms) or 0
      b[5], available = b[5] + left, available - left
      if left > 0 then
        moved(grants[2], LAPSE)
      end
      if schedule[2] <= at_ms then
        local term = terms and terms_ms == at_ms and terms[field]
        if not terms or terms_ms ~= at_ms then
          return at_ms
        end
        if not term then
          schedule[2] = NEVER -- the policy refills it no more
        elseif term[4] > schedule[3] then
          if top_up(b, available, term[3]) then
            moved(term[1], REFILL)
          end
          schedule = { term[1], term[5], term[4], term[2] }
        else
          schedule[2] = term[5]
        end
      end
      cells[#cells + 1], cells[#cells + 2] = field, balance_packed(b, grants)
    end
    local change_ms = next_change(schedule, grants)
    due = math.min(due, change_ms)
    if change_ms < NEVER then
      kept[#kept + 1], kept[#kept + 2] = field, cmsgpack.pack(unpack(schedule))
    else
      gone[#gone + 1] = field
    end
  end

  if #cells > 0 then
    redis.call('HSET', KEYS[1], unpack(cells))
  end
  if #kept > 0 then
    redis.call('HSET', GRANTS, unpack(kept))
  end
  if #gone > 0 then
    redis.call('HDEL', GRANTS, unpack(gone))
  end
  if due < NEVER then
    redis.call('ZADD', KEYS[3], int(due), GRANTS_DUE)
  else
    redis.call('ZREM', KEYS[3], GRANTS_DUE)
  end
  ledger_write(entries)
  return nil
end
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end

local UPGRADE = 7
local args = { cmsgpack.unpack(ARGV[1]) }
local now, member, replaces, expected, record = clock(args[1]), args[2], args[3] == 1, args[4], args[5]
local write_id, fingerprint, cause, changes = args[6], args[7], args[8], args[9]
local refills_at = 10 + changes * 7
local refills = args[refills_at]

local fields, known_fields = { 'v', 'due' }, {}
local function field_wanted(field)
  if not known_fields[field] then
    known_fields[field] = true
    fields[#fields + 1] = field
  end
end
for change = 0, changes - 1 do
  field_wanted(args[10 + change * 7])
end
for refill = 0, refills - 1 do
  field_wanted(args[refills_at + 1 + refill * 7])
end

local stored = redis.call('GET', KEYS[2]) or ''
local known = redis.call('HGET', KEYS[6], write_id)
local read = redis.call('HMGET', KEYS[1], unpack(fields))
if read[2] and (tonumber(read[2]) or error('CORRUPT the earliest lease end')) <= now then
  return { 4, now }
end
if known and write_id ~= '' then
  local same = string.sub(known, 1, #fingerprint) == fingerprint
  return { same and 2 or 6, stored, string.sub(known, #fingerprint + 1) }
end
if replaces and account_version(read[1]) ~= expected then
  return { 3, stored }
end

local raws, schedules, entries, results = {}, {}, {}, {}
for index = 3, #fields do
  raws[fields[index]] = read[index]
end
if #fields > 2 then
  local scheduled = redis.call('HMGET', GRANTS, unpack(fields, 3))
  for index = 3, #fields do
    schedules[fields[index]] = scheduled[index - 2] and schedule_read(scheduled[index - 2])
  end
  ledger_look()
end

local function moved(field, b, grants, ledgered, why)
  local raw = balance_packed(b, grants)
  if ledgered == 1 then
    entries[#entries + 1] = ledger_entry(now, why, write_id, field, raws[field], raw)
  end
  raws[field] = raw
end

for change = 0, changes - 1 do
  local field, units, source, expires_ms, order, ledgered, bound = unpack(args, 10 + change * 7, 16 + change * 7)
  local b, available, grants = balance_open(raws[field])
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
    local taken = math.min(-units, math.max(available, 0))
    local owed = math.min(-units - taken, math.max(bound - b[7], 0))
    if grants then
      grants_kept().draw(grants, source .. grants[1], available, taken)
    end
    units = taken + owed
    b[2], b[7] = b[2] + units, b[7] + owed
    if b[2] >= 9007199254740992 then
      return { 5, stored }
    end
  end
  results[change + 1] = units
  if units > 0 then
    moved(field, b, grants, ledgered, cause)
  else
    raws[field] = balance_packed(b, grants)
  end
end

for refill = 0, refills - 1 do
  local at = refills_at + 1 + refill * 7
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
for index = 3, #fields do
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
local packed_results = cmsgpack.pack(results)
local before = redis.call('ZSCORE', KEYS[3], GRANTS_DUE)
redis.call('ZSCORE', KEYS[4], member)

if replaces then
  cells[#cells + 1], cells[#cells + 2] = 'v', int(expected + 1)
  redis.call('SET', KEYS[2], record)
  stored = record
end
if due < (tonumber(before) or NEVER) then
  redis.call('ZADD', KEYS[3], int(due), GRANTS_DUE)
  if due < (tonumber(read[2]) or NEVER) then
    cells[#cells + 1], cells[#cells + 2] = 'due', int(due)
    redis.call('ZADD', KEYS[4], int(due), member)
  end
end
if #cells > 0 then
  redis.call('HSET', KEYS[1], unpack(cells))
end
if #kept > 0 then
  redis.call('HSET', GRANTS, unpack(kept))
end
if write_id ~= '' then
  redis.call('HSET', KEYS[6], write_id, fingerprint .. packed_results)
end
ledger_write(entries)
return { 1, stored, packed_results }
