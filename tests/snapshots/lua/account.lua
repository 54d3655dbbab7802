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

--[[ The ledger: a stream with an entry for each step that moved money, numbered 0-1, 0-2, … without gaps. An entry is
one msgpack sequence: at_ms, cause (domain/ledger.py), reference, field, the balance's seven totals before and after.

`entries` have the same, with the balance's raw values (false or nil: there was none). That the key is a stream was
seen before the step's first write. ]]
local function write_ledger(entries)
  for index = 1, #entries do
    local at_ms, cause, reference, field, before, after = unpack(entries[index], 1, 6)
    local totals = before and string.sub(before, 1, 49) or string.rep('\0', 49)
    redis.call('XADD', tenant_key('ledger'), '0-*', 'e', cmsgpack.pack(
      at_ms, cause, reference, field, totals, string.sub(after, 1, 49)
    ))
  end
end
--[[ balance: prepaid units. Twin of server/domain/limits/balance.py. A cell is seven running totals of 7 bytes:
granted, reversed, charged, held, expired, uncollected, debt. Behind them stand its grants, where the policy keeps them
apart and there is more than one (balance_grants.lua).
granted - reversed + debt = available + held + charged + expired. Subtracted in an order that keeps every
intermediate result exact. ]]
local BALANCE, BALANCE_SIZE = '>I7I7I7I7I7I7I7', 49
--[[ The grants of a balance that keeps them apart: behind its totals, as one msgpack sequence.
1 burn order (sources as digits)  2 ledgered (1 or 0)  then per grant, by source and expiry: source, expires_ms, left
A grant is all units of one source and one expiry. What of the available units stands in none of them is the first
source's, without an expiry: a balance of nothing else has no sequence. A grant stays until its time is over, even
when nothing is left of it, since a hold may bring something back. ]]
local MONTHLY, NEVER = 1, 9007199254740991
local FIRST_GRANT, GRANT_SIZE, MOST_GRANTS = 3, 3, 64

-- What there is to do with grants: read, packed, draw, add, give_back. Made when asked for: few balances have grants.
local function grants_kept()
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
        free = free - drawn(source, NEVER, free)
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

  return {
    read = grants_read,
    packed = grants_packed,
    draw = grants_draw,
    add = grants_add,
    give_back = grants_return,
  }
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

-- What is not spent: available and held.
local function left_of(b)
  return b[1] - b[2] - b[5] - b[3] + b[7]
end

local function balance_packed(b, grants)
  if math.min(unpack(b)) < 0 or math.max(unpack(b)) >= 9007199254740992 then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  return struct.pack(BALANCE, b[1], b[2], b[3], b[4], b[5], b[6], b[7])
    .. (grants and grants_kept().packed(grants) or '')
end
-- Adds to `falls` (nil: none yet) the marks that a fall of what is left has reached, the highest first: field, mark,
-- left of each. Whoever rises above a mark may fall to it again, so nothing needs to be remembered.
local function marks_reached(falls, field, marks, first, before, after)
  for index = first, #marks do
    if before > marks[index] and after <= marks[index] then
      falls = falls or {}
      falls[#falls + 1] = { field, marks[index], after }
    end
  end
  return falls
end
-- What is due besides holds, which have no such ids: a change of grants, a change of an allowance with thresholds.
-- Mirrors server/engine/keys.py.
local GRANTS_DUE, LIMITS_DUE = '', '\1'

--[[ Notes for the tenant's people, in the stream hg:{p/t}:note: each a list of fields with values (engine/notes.py).
The oldest leave when there are more than this. ]]
local MOST_NOTES = '1000'
local FALL_SIZE = 3

-- What there is to do with notes: look, write. Made when asked for: few steps reach a threshold.
local function notes_kept()
  -- That both keys have their types is seen before a step's first write.
  local function notes_look()
    redis.call('XLEN', tenant_key('note'))
    redis.call('ZCARD', NOTED_KEY)
  end

  -- Writes the thresholds that a step crossed: `crossings` has field, start, end, percent, limit, used of each, or for
  -- a balance field, mark, left. The tenant is listed for the webhook by its oldest note that was not told, and whoever
  -- watches is woken; a store user who may not PUBLISH only makes watchers slow.
  local function notes_write(crossings, now)
    for index = 1, #crossings do
      local crossing = crossings[index]
      local names = #crossing == FALL_SIZE and { 'mark', 'left' } or { 'cycle', 'ends', 'percent', 'limit', 'used' }
      local fields = {}
      for place = 1, #names do
        fields[place * 2 - 1], fields[place * 2] = names[place], string.format('%.0f', crossing[place + 1])
      end
      redis.call(
        'XADD', tenant_key('note'), 'MAXLEN', '=', MOST_NOTES, '*',
        'kind', 'threshold', 'at', string.format('%.0f', now), 'cell', crossing[1], unpack(fields)
      )
    end
    redis.call('ZADD', NOTED_KEY, 'NX', string.format('%.0f', now), MEMBER)
    redis.pcall('PUBLISH', NOTED_CHANNEL, MEMBER)
  end

  return { look = notes_look, write = notes_write }
end

--[[ What time does to balances: grants lapse, and a refill tops up to its ceiling when a cycle begins.

hg:{p/t}:grants has, per field of a balance with either: ledgered (1 or 0), refill_ms (the next one; NEVER without),
cycle_ms (start of the cycle that was refilled last), then the plans refilled in that cycle. The sorted set of open
holds by lease end has GRANTS_DUE, an id that no hold has, at the instant of the next change, so that a tenant is
found overdue when it has come. Each instant is a step of its own, in order with the ends of leases: who comes late
finds what who came in time would have found. ]]
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
per field ledgered, plan, ceiling, cycle_ms, next_ms; `marks` are those of balances then, per field. Returns nil when
done, or the instant for which terms are wanted. Reads all, then writes. ]]
local function change_grants(now, terms_ms, terms, marks)
  local grants_key = tenant_key('grants')
  local stored = redis.call('HGETALL', grants_key)
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
  redis.call('XLEN', tenant_key('ledger'))

  local entries, cells, kept, gone, due, falls = {}, {}, {}, {}, NEVER, nil
  for _, field in ipairs(fields) do
    local schedule = schedules[field]
    local b, available, grants = balance_open(raws[field])
    local function moved(ledgered, cause)
      local raw = balance_packed(b, grants)
      if ledgered == 1 then
        entries[#entries + 1] = { at_ms, cause, '', field, raws[field], raw }
      end
      raws[field] = raw
    end
    if at_ms <= now then
      local had = left_of(b)
      local left = grants and lapse(grants, at_ms) or 0
      if left > 0 and terms_ms ~= at_ms then
        return at_ms
      end
      b[5], available = b[5] + left, available - left
      if left > 0 then
        moved(grants[2], LAPSE)
      end
      if schedule[2] <= at_ms then
        local term = terms[field]
        if terms_ms ~= at_ms then
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
      falls = marks_reached(falls, field, marks[field] or {}, 1, had, left_of(b))
    end
    local change_ms = next_change(schedule, grants)
    due = math.min(due, change_ms)
    if change_ms < NEVER then
      kept[#kept + 1], kept[#kept + 2] = field, cmsgpack.pack(unpack(schedule))
    else
      gone[#gone + 1] = field
    end
  end
  if falls then
    notes_kept().look()
  end

  if #cells > 0 then
    redis.call('HSET', KEYS[1], unpack(cells))
  end
  if #kept > 0 then
    redis.call('HSET', grants_key, unpack(kept))
  end
  if #gone > 0 then
    redis.call('HDEL', grants_key, unpack(gone))
  end
  if due < NEVER then
    redis.call('ZADD', KEYS[3], string.format('%.0f', due), GRANTS_DUE)
  else
    redis.call('ZREM', KEYS[3], GRANTS_DUE)
  end
  write_ledger(entries)
  if falls then
    notes_kept().write(falls, at_ms)
  end
  return nil
end

-- Takes units back from a balance: what is available, of the grants in this order, then debt up to its bound. Returns
-- how many.
local function take_back(b, available, grants, order, units, bound)
  local taken = math.min(units, math.max(available, 0))
  local owed = math.min(units - taken, math.max(bound - b[7], 0))
  if grants then
    grants_kept().draw(grants, order, available, taken)
  end
  b[2], b[7] = b[2] + taken + owed, b[7] + owed
  return taken + owed
end
--[[ quota: an allowance per cycle. Twin of server/domain/limits/quota.py.

A cell is an entry per cycle, the latest first (engine/quota_cells.py): start, end, limit, overage allowed, grace in ms,
price, within, overage, grace, over_hard, held, exhausted at, noted. So a cycle rolls over by putting an entry in front,
and the number of cells does not grow. A hold finds its cycle by the start, and so does a clock that went back. ]]
local QUOTA, QUOTA_SIZE, QUOTA_TERMS = '>I6I7I7I7I6I7I7I7I7I7I7I6I1', 82, '>I6I7I6I7I7'
local QUOTA_PAST, QUOTA_MOST = 12, 9007199254740991

-- Where the entry of the cycle that begins at `start` is, or where it belongs, and whether it is there.
local function quota_place(raw, start)
  if #raw == 0 or #raw % QUOTA_SIZE ~= 0 then
    error('CORRUPT a quota cell of ' .. #raw .. ' bytes')
  end
  for at = 1, #raw, QUOTA_SIZE do
    local begins = struct.unpack('>I6', raw, at)
    if begins <= start then
      return at, begins == start
    end
  end
  return #raw + 1, false
end

--[[ Returns used (held included), held, wait_ms, and the new raw value (nil when it does not fit or takes nothing).
Nothing is refused before enforcement, which begins `grace` after settled use reached the limit and its overage; from
then on a request fits whole or not at all. ]]
local function quota_check(raw, now, amount, take, cap, param)
  local start, stop, grace, overage, price = struct.unpack(QUOTA_TERMS, param)
  local at, found = 1, false
  local within, billed, graced, over, held, exhausted, noted = 0, 0, 0, 0, 0, 0, 0
  if raw then
    at, found = quota_place(raw, start)
    if found then
      local _, limit
      _, _, limit, _, _, _, within, billed, graced, over, held, exhausted, noted = struct.unpack(QUOTA, raw, at)
      noted = limit == cap and noted or 0
    end
  end
  local used = within + billed + graced + over
  local total, bound = used + held + amount, math.min(cap + overage, QUOTA_MOST)
  if used + held > QUOTA_MOST then
    error('CORRUPT a quota above 2^53 - 1')
  end
  if used < bound then
    exhausted = 0
  elseif exhausted == 0 then
    exhausted = now
  end
  if amount > 0 and total > bound
    and (total > QUOTA_MOST or grace == 0 or (used >= bound and now >= exhausted + grace)) then
    return used + held, held, (grace > 0 or amount <= bound) and stop - now or -1
  end
  if not take then
    return used + held, held, 0
  end
  local entry = struct.pack(QUOTA, start, stop, cap, overage, grace, price,
    within, billed, graced, over, held + take, exhausted, noted)
  if not raw then
    return used + held, held, 0, entry
  end
  if found then
    return used + held, held, 0, string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE)
  end
  -- A cycle more. Those that are too old leave, unless a hold is still open in them.
  local size = #raw
  while size >= (QUOTA_PAST + 1) * QUOTA_SIZE and at <= size do
    local old_held = select(11, struct.unpack(QUOTA, raw, size - QUOTA_SIZE + 1))
    if old_held > 0 then
      break
    end
    size = size - QUOTA_SIZE
  end
  return used + held, held, 0, string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at, size)
end
-- Why a take is changed; the numbers are those of domain/limits/base.py.
local REPORT, SETTLE, RELEASE, EXPIRE = 1, 2, 3, 4

--[[ New raw value, and the thresholds that were crossed: start, end, percent, limit, used of each.
`param` has the start of the cycle that the take belongs to, and the thresholds, a byte each. What was delivered is
charged in full: up to the limit, up to the overage, and above both to the grace if the hold was made before that
ended. What a correction found too high (`after` below `before`) is taken back, what was counted last first. ]]
local function quota_finish(raw, ending, live, amount, instant, param, before, after, now)
  if not raw then
    error('CORRUPT a hold of a quota that has no cell')
  end
  local at, found = quota_place(raw, struct.unpack('>I6', param))
  if not found then
    at = #raw - QUOTA_SIZE + 1 -- its cycle left long ago: the oldest one takes the use, so that none is lost
  end
  local start, stop, limit, overage, grace, price, within, billed, graced, over, held, exhausted, noted =
    struct.unpack(QUOTA, raw, at)
  before, after = math.max(before, 0), math.max(after, 0)
  local own = live and math.max(amount - before, 0) or 0
  held = held - (ending == REPORT and math.min(after - before, own) or own)
  local crossed
  local bound, used = math.min(limit + overage, QUOTA_MOST), within + billed + graced + over
  local new = used + after - before
  if after > before then
    local to_within = math.max(math.min(new, limit) - used, 0)
    local to_billed = math.max(math.min(new, bound) - math.max(used, limit), 0)
    local rest = after - before - to_within - to_billed
    within, billed = within + to_within, billed + to_billed
    if grace > 0 and instant < (exhausted > 0 and exhausted or now) + grace then
      graced = graced + rest
    else
      over = over + rest
    end
    if new >= bound and exhausted == 0 then
      exhausted = now
    end
  elseif after < before then
    local back = before - after
    over, back = math.max(over - back, 0), math.max(back - over, 0)
    graced, back = math.max(graced - back, 0), math.max(back - graced, 0)
    billed, back = math.max(billed - back, 0), math.max(back - billed, 0)
    within = math.max(within - back, 0)
    if new < bound then
      exhausted = 0
    end
  end
  for index = 7, #param do
    -- Reached at that part of the limit, rounded up; split so that no product passes 2^53.
    local percent, odd = string.byte(param, index), limit % 100
    local reached_at = (limit - odd) / 100 * percent + math.ceil(odd * percent / 100)
    if percent > noted and limit > 0 and limit < QUOTA_MOST and new >= reached_at then
      noted = percent
      crossed = crossed or {}
      crossed[#crossed + 1] = { start, stop, percent, limit, new }
    end
  end
  if held < 0 or within + billed + graced + over + held > QUOTA_MOST then
    error('CORRUPT a quota outside 0 to 2^53 - 1')
  end
  local entry = struct.pack(QUOTA, start, stop, limit, overage, grace, price,
    within, billed, graced, over, held, exhausted, noted)
  return string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE), crossed
end
--[[ count: standing allocations. Twin of server/domain/limits/count.py.

A cell is the letter n, the units that stand, and those that open holds keep; there is none while both are 0. Which
allocations stand is in the hash hg:{p/t}:alloc: by name a msgpack sequence, per cell: field, units. ]]
local COUNT, COUNT_SIZE = '>c1I7I7', 15

-- What there is to do with a cell: read, packed, finish. Made when asked for: few policies have counts.
local function counts_kept()
  -- Units that stand and units that are held.
  local function count_read(raw)
    if not raw then
      return 0, 0
    end
    if #raw ~= COUNT_SIZE then
      error('CORRUPT a count of ' .. #raw .. ' bytes')
    end
    local mark, standing, held = struct.unpack(COUNT, raw)
    if mark ~= 'n' or standing + held >= 9007199254740992 then
      error('CORRUPT a count')
    end
    return standing, held
  end

  -- The new raw value, or false where nothing is left.
  local function count_packed(standing, held)
    if math.min(standing, held) < 0 or standing + held >= 9007199254740992 then
      error('CORRUPT a count outside 0 to 2^53 - 1')
    end
    return standing + held > 0 and struct.pack(COUNT, 'n', standing, held)
  end

  -- The new raw value without what a hold held, where that ends, and with `stands` units more that stand, beyond the
  -- limit too, because they exist.
  local function count_finish(raw, frees, amount, stands)
    local standing, held = count_read(raw)
    return count_packed(standing + stands, held - (frees and amount or 0))
  end

  return { read = count_read, packed = count_packed, finish = count_finish }
end

-- What there is to do with allocations: read, write. Made when asked for: few holds have counts.
local function allocations_kept()
  -- What stands under a name: units by cell field; nothing for a name that is not known.
  local function allocation_read(name)
    local raw = redis.call('HGET', tenant_key('alloc'), name)
    local units = {}
    local values = raw and { cmsgpack.unpack(raw) } or {}
    for at = 1, #values, 2 do
      if type(values[at]) ~= 'string' or type(values[at + 1]) ~= 'number' then
        error('CORRUPT an allocation')
      end
      units[values[at]] = values[at + 1]
    end
    return units
  end

  -- Writes what stands under a name from now on; a name under which nothing does is forgotten.
  local function allocation_write(name, units)
    local values = {}
    for field, amount in pairs(units) do
      values[#values + 1], values[#values + 2] = field, amount
    end
    if #values == 0 then
      redis.call('HDEL', tenant_key('alloc'), name)
    else
      redis.call('HSET', tenant_key('alloc'), name, cmsgpack.pack(unpack(values)))
    end
  end

  return { read = allocation_read, write = allocation_write }
end
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

--[[ slots: a pool of concurrent places. Twin of server/domain/limits/slots.py. A cell is a decimal count; an empty pool
has no cell. Whose place it is stands in the holds; overdue ones are given back before anybody looks.

Where jobs have a usual length, behind the count stand ';', the average length of recent jobs in ms (6 bytes), how many
that is an average of (1), and when the jobs in the pool began (6 each, at most 64). ]]
local POOL, POOL_SIZE, START_SIZE, STARTS_KEPT = '>I6I1', 7, 6, 64
local JOBS_AVERAGED, JOBS_ENOUGH = 16, 8

local function slots_taken(raw)
  local taken = tonumber(raw) or tonumber(string.match(raw, '^(%d+);'))
  if not taken or taken < 0 or taken >= 9007199254740992 or taken % 1 ~= 0 then
    error('CORRUPT a slots cell')
  end
  return taken
end

-- What there is to do with a cell of a pool whose jobs have a usual length, or that has a queue: read, packed, taken,
-- finish. Made when asked for: most pools are a count.
local function pools_kept()
  -- Places taken, average length of jobs, of how many, and the beginnings.
  local function pool_read(raw)
    if not raw then
      return 0, 0, 0, ''
    end
    local taken, at = slots_taken(raw), string.find(raw, ';', 1, true)
    if not at then
      return taken, 0, 0, ''
    end
    local starts = #raw - at - POOL_SIZE
    if starts < 0 or starts % START_SIZE ~= 0 then
      error('CORRUPT a slots cell of ' .. #raw .. ' bytes')
    end
    local mean, jobs = struct.unpack(POOL, raw, at + 1)
    return taken, mean, jobs, string.sub(raw, at + 1 + POOL_SIZE)
  end

  local function pool_packed(taken, mean, jobs, starts)
    return string.format('%.0f', taken) .. ';' .. struct.pack(POOL, mean, jobs) .. starts
  end

  -- The value with one place more, taken now.
  local function pool_taken(raw, now)
    local taken, mean, jobs, starts = pool_read(raw)
    if #starts < STARTS_KEPT * START_SIZE then
      starts = starts .. struct.pack('>I6', now)
    end
    return pool_packed(taken + 1, mean, jobs, starts)
  end

  -- The value without the places of a hold that began at `start`; nil where nothing is left to remember. `param` begins
  -- with whether jobs are measured.
  local function pool_finish(raw, ending, amount, start, param, now)
    local taken, mean, jobs, starts = pool_read(raw)
    local packed = struct.pack('>I6', start)
    for at = 1, #starts, START_SIZE do
      if string.sub(starts, at, at + START_SIZE - 1) == packed then
        starts = string.sub(starts, 1, at - 1) .. string.sub(starts, at + START_SIZE)
        break
      end
    end
    if string.byte(param) == 1 and (ending == SETTLE or ending == RELEASE) then
      jobs = math.min(jobs + 1, JOBS_AVERAGED)
      mean = mean + math.floor((math.max(now - start, 0) - mean) / jobs)
    end
    taken = math.max(taken - amount, 0)
    return (taken > 0 or jobs > 0) and pool_packed(taken, mean, jobs, starts) or nil
  end

  return { read = pool_read, packed = pool_packed, taken = pool_taken, finish = pool_finish }
end

--[[ Queues in front of pools. hg:{p/t}:q:<cell> has the ids of those who wait for a pool's places, by order of arrival
over all queues of the tenant. While anyone waits, hg:{p/t}:pools says whose turn is next (wire_queues.py): the account
version that it holds for, valid from, valid until, number of groups, then per group: places, number of cells, cells.
Pools that share places are one group, and the first who came to any of them is next.

A hold that waits has in its take of the pool, behind whether jobs are measured, for how long its ticket is kept (4
bytes, ms) and the open call that waits with it (the process, a dot, the call; empty for none). ]]
local TICKET_AT, OWNER_AT, MOST_TURNS = 2, 6, 16

-- What there is to do with queues: take, look, write. Made when asked for: few holds have to do with any.
local function queues_kept()
  local pools = pools_kept()

  -- The take of the pool that a hold waits for: its index.
  local function queued_take(hold, takes_at)
    for take = takes_at + 1, #hold, TAKE_SIZE do
      if hold[take] == 4 and hold[take + 8] ~= 0 and #hold[take + 8] >= OWNER_AT - 1 then
        return take
      end
    end
    error('CORRUPT a hold that waits for no pool')
  end

  -- What one turn writes: the hold gets its place, until it is claimed. Whatever the clock has done, that never begins
  -- before the request did.
  local function turn_of(id, field, now)
    local key = tenant_key('h:' .. id)
    local raw = redis.call('GET', key)
    if not raw then
      return { id, field }
    end
    local hold, at = hold_read(raw)
    local take = queued_take(hold, at)
    local param, since = hold[take + 8], math.max(now - hold[2], 0)
    local lease_in = since + struct.unpack('>I4', param, TICKET_AT)
    hold[1], hold[3], hold[4], hold[take + 5] = PROMOTED, lease_in, hold[4] + since, since
    local record, began, owner = cmsgpack.pack(unpack(hold)), hold[2] + since, string.sub(param, OWNER_AT)
    return { id, field, key, record, hold[2] + lease_in, owner, began }
  end

  --[[ Whose turn it is, reading everything and writing nothing. `changed` has cells as they are about to be (false:
  gone), `leaving` is an id that is about to leave its queue. Returns what promote_write wants (nil: nobody's turn), and
  whether reap must go on with it: 1 for more turns than one call makes, 2 for terms that are out of date. ]]
  local function promote_look(now, changed, leaving)
    local packed = redis.call('GET', tenant_key('pools'))
    if not packed then
      return nil, 0
    end
    local terms, fields = { cmsgpack.unpack(packed) }, { 'v', 'due' }
    local at = 5
    for _ = 1, terms[4] do
      for cell = 1, terms[at + 1] do
        fields[#fields + 1] = terms[at + 1 + cell]
      end
      at = at + 2 + terms[at + 1]
    end
    local read = redis.call('HMGET', KEYS[1], unpack(fields))
    if terms[1] ~= tonumber(read[1] or 0) or now < terms[2] or now >= terms[3] then
      return nil, 2
    end
    local turns, sets, more, waiting, before, first = {}, {}, 0, 0, 2, nil
    at = 5
    for _ = 1, terms[4] do
      local cap, count = terms[at], terms[at + 1]
      local raws, taken, heads = {}, 0, {}
      for cell = 1, count do
        local field = terms[at + 1 + cell]
        raws[cell] = read[before + cell]
        if changed[field] ~= nil then
          raws[cell] = changed[field]
        end
        taken = taken + (raws[cell] and slots_taken(raws[cell]) or 0)
        waiting = waiting + redis.call('ZCARD', tenant_key('q:' .. field))
      end
      for cell = 1, taken < cap and count or 0 do
        local queue = redis.call('ZRANGE', tenant_key('q:' .. terms[at + 1 + cell]), 0, MOST_TURNS, 'WITHSCORES')
        for place = 1, #queue, 2 do
          if queue[place] ~= leaving then
            heads[#heads + 1] = { tonumber(queue[place + 1]), queue[place], cell }
          end
        end
      end
      table.sort(heads, function(one, other)
        return one[1] < other[1]
      end)
      for place = 1, math.min(#heads, cap - taken) do
        if place > MOST_TURNS then
          more = 1
          break
        end
        local cell = heads[place][3]
        local turn = turn_of(heads[place][2], terms[at + 1 + cell], now)
        if turn[3] then
          raws[cell] = pools.taken(raws[cell], turn[7])
          sets[terms[at + 1 + cell]] = raws[cell]
          first = math.min(first or turn[5], turn[5])
        end
        turns[#turns + 1] = turn
      end
      at, before = at + 2 + count, before + count
    end
    -- After a clock that stepped back, a place may have to be claimed before all else is due.
    if first and read[2] and tonumber(read[2]) <= first then
      first = nil
    elseif first then
      redis.call('ZSCORE', KEYS[4], MEMBER)
    end
    return { turns, sets, waiting - #turns - (leaving and 1 or 0), first }, more
  end

  -- Gives the turns their places, wakes who waits for them, and clears up behind the last one. A store user who may not
  -- PUBLISH only makes waiters slow: they look by themselves when they renew their tickets.
  local function promote_write(promoted)
    local turns, sets, waiting, first = unpack(promoted, 1, 4)
    for number = 1, #turns do
      local id, field, key, record, deadline = unpack(turns[number], 1, 5)
      redis.call('ZREM', tenant_key('q:' .. field), id)
      if key then
        redis.call('SET', key, record)
        redis.call('ZADD', KEYS[3], 'XX', string.format('%.0f', deadline), id)
      end
    end
    if first then
      local due = string.format('%.0f', first)
      redis.call('ZADD', KEYS[4], due, MEMBER)
      redis.call('HSET', KEYS[1], 'due', due)
    end
    if #turns > 0 and next(sets) then
      local cells = {}
      for field, raw in pairs(sets) do
        cells[#cells + 1], cells[#cells + 2] = field, raw
      end
      redis.call('HSET', KEYS[1], unpack(cells))
    end
    for number = 1, #turns do
      local owner = turns[number][6]
      if owner and owner ~= '' then
        local process = string.match(owner, '^[^.]*')
        redis.pcall('PUBLISH', TURN_CHANNEL .. process, MEMBER .. '\n' .. turns[number][1])
      end
    end
    if waiting == 0 then
      redis.call('DEL', tenant_key('pools'))
    end
  end

  return { take = queued_take, look = promote_look, write = promote_write }
end

--[[ What operators did: the stream hg:{n}:acts of the tenant's hash slot, beside the index by due, so that the line is
written by the step that it tells of and outlives the tenant. An entry is two msgpack sequences: `a`, the act as the
server put it (engine/acts.py), opaque here, and `e`, at_ms, the tenant's name, before, after. Its id begins with when
it was made, or, where the clock stepped back, with that of the entry before.
Entries leave when they are too old or too many; the whole stream leaves when nothing was added for as long. ]]
local MOST_ACTS, ACTS_KEPT_MS = '10000', 34560000000

local function acts_key()
  return string.sub(KEYS[4], 1, -4) .. 'acts'
end

-- When the last act was, seen before a step's first write. (In capitals the word would be a constant's name.)
local function last_act()
  local last = redis.call('XREVRANGE', acts_key(), '+', '-', 'count', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

local function write_act(act, last_ms, now, before, after)
  redis.call(
    'XADD', acts_key(), 'MAXLEN', '=', MOST_ACTS, string.format('%.0f-*', math.max(last_ms, now)),
    'a', act, 'e', cmsgpack.pack(now, MEMBER, before, after)
  )
  redis.call('XTRIM', acts_key(), 'MINID', string.format('%.0f', math.max(now - ACTS_KEPT_MS, 0)))
  redis.call('PEXPIRE', acts_key(), string.format('%.0f', ACTS_KEPT_MS))
end
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end

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
