#!lua
--[[ Decides one request: takes from every limit or from none.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)
       5 hold (string)  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)
       2 msgpack sequence: gated (1: a gate refuses), hold id ('': remember nothing), lease_ms (0: no lease),
         longest_ms, replay_ms, tenant's member in the index, the record from its fingerprint on (hold_layout.lua)
       3 when the plan has shadow checks, a msgpack sequence: the record's takes, which end argument 2 otherwise: their
         number, the takes; then per shadow check that takes: its number, its take; '' without
       4 when a request without a place may wait, a msgpack sequence: how long its ticket is kept in ms, the cell of its
         pool, the terms of the queues (queues.lua), the cells of all pools with queues
Reply  {0, now, rows} refused; {1, now, rows} granted; {2, now, hold} the id is known;
       {3, now, account} planned for another version or time; {4, now} holds are overdue: call reap, then ask again;
       {5, now} too many cells; {6, now, rows, position, free} it waits in the queue; free: 1 when reap has turns to
       make. rows: msgpack sequence, 3 per check (checks.lua), from before anything is taken.
Writes on a grant alone: due and index, hold, cells, windows; of one that waits also its queue and pools. ZADD NX comes
       first, as only it can still find a wrong type; SET NX is the look at the id. On a refusal only windows that block
       and moved back with the clock.
Example {1, 1773144000000, <1,60000,0>} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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
--[[ window: a rolling-window rate. Twin of server/domain/limits/window.py.

A cell is one string: the entries (instant 6 bytes, amount 7), oldest first, then total (7) and the first instant of the
newest entry (6). A window of length W at t covers (t - W, t]; an entry made at t0 stops counting at t0 + W.
Up to 64 entries every instant is kept apart. Beyond that an entry made within W/1000 of the first instant of the
newest one joins it at the later instant: it counts longer by at most W/1000, never shorter, so that a window has
at most about 1,064 entries (14 KB) whatever the amounts. ]]
local WINDOW_ENTRY, WINDOW_TAIL, WINDOW_EXACT = 13, 13, 64

--[[ Looks, and works out the cell with `take` added (false: take nothing).
Returns used, reset_ms, wait_ms, new raw value (nil when it takes nothing; when it does not fit, only where the clock
stepped back: the cell moved with it), and whether the key's TTL should be renewed: the newest entry was made in another
half of a window's length. ]]
local function window_check(raw, now, amount, take, cap, length)
  -- `at` is where the oldest entry that counts begins, `last` where the newest does (0: none).
  local at, last, total, first, newest, newest_amount, reset, moved = 1, 0, 0, now, 0, 0, 0, nil
  if raw then
    last = #raw - WINDOW_TAIL - WINDOW_ENTRY + 1
    if last < 1 or last % WINDOW_ENTRY ~= 1 then
      error('CORRUPT a window cell of ' .. #raw .. ' bytes')
    end
    newest, newest_amount, total, first = struct.unpack('>I6I7I7I6', raw, last)
    if newest > now then
      -- The clock stepped back: all entries move with it, so that nobody is locked out for longer.
      local step, parts = newest - now, {}
      for entry = 1, last, WINDOW_ENTRY do
        local instant, counted = struct.unpack('>I6I7', raw, entry)
        parts[#parts + 1] = struct.pack('>I6I7', instant - step, counted)
      end
      first = math.max(first - step, 0)
      parts[#parts + 1] = struct.pack('>I7I6', total, first)
      raw = table.concat(parts)
      newest, moved = now, raw
    end
    if newest <= now - length then
      last, total, first, newest_amount = 0, 0, now, 0
    else
      local oldest, leaving = struct.unpack('>I6I7', raw)
      while oldest <= now - length do
        total = total - leaving
        at = at + WINDOW_ENTRY
        oldest, leaving = struct.unpack('>I6I7', raw, at)
      end
      if total > 0 then
        -- Entries of 0 wait for usage; `used` falls when the first that counts leaves.
        local counting = at
        while leaving == 0 do
          counting = counting + WINDOW_ENTRY
          oldest, leaving = struct.unpack('>I6I7', raw, counting)
        end
        reset = oldest + length - now
      end
    end
  end

  local missing = total - (cap - amount)
  if amount > 0 and missing > 0 then
    local wait = -1
    if amount <= cap then
      for entry = at, last, WINDOW_ENTRY do
        local instant, leaving = struct.unpack('>I6I7', raw, entry)
        missing = missing - leaving
        if missing <= 0 then
          wait = instant + length - now
          break
        end
      end
    end
    return total, reset, wait, moved
  end
  if not take then
    return total, reset, 0
  end
  if last == 0 then
    return total, reset, 0, struct.pack('>I6I7I7I6', now, take, take, now), true
  end
  local half = length / 2
  local renew = math.floor(newest / half) ~= math.floor(now / half)
  if newest == now or (now - first <= length / 1000 and last - at >= (WINDOW_EXACT - 1) * WINDOW_ENTRY) then
    return total, reset, 0,
      string.sub(raw, at, last - 1) .. struct.pack('>I6I7I7I6', now, newest_amount + take, total + take, first),
      renew
  end
  return total, reset, 0,
    string.sub(raw, at, last + WINDOW_ENTRY - 1) .. struct.pack('>I6I7I7I6', now, take, total + take, now),
    renew
end
-- Why a take is changed; the numbers are those of domain/limits/base.py.
local REPORT, SETTLE, RELEASE, EXPIRE = 1, 2, 3, 4
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

local QUEUES = -2

-- The looks at pools that are more than a count: check, queued. Made when asked for.
local function pool_looks()
  local kept = pools_kept()

  -- As the other looks (checks.lua): places taken, 0, when the oldest job ends if it takes as long as is usual, and the
  -- new value. `param` has whether jobs are measured, and how long one takes otherwise.
  local function pool_check(raw, now, amount, take, cap, param)
    local taken, mean, jobs, starts = kept.read(raw)
    if amount > 0 and taken + amount > cap then
      local measured, typical = struct.unpack('>I1I6', param)
      if measured == 1 and jobs >= JOBS_ENOUGH then
        typical = mean
      end
      local oldest = now
      for at = 1, #starts, START_SIZE do
        oldest = math.min(oldest, (struct.unpack('>I6', starts, at)))
      end
      return taken, 0, math.max(oldest + typical - now, 1)
    end
    if not take then
      return taken, 0, 0
    end
    if #starts < STARTS_KEPT * START_SIZE then
      starts = starts .. struct.pack('>I6', now)
    end
    return taken, 0, 0, kept.packed(taken + take, mean, jobs, starts)
  end

  --[[ The same for a pool with a queue: `rows` before `row` has the places taken of the pools that share theirs with
  it, `field` is the place of its own cell among the plan's fields, with theirs in front. Returns the places taken of
  all, how many wait, what the wait is (QUEUES: there is a place in the queue), the new value, and whether somebody
  waits although a place is free. Nobody overtakes: with anyone waiting, a request waits too. ]]
  local function queued_check(plan, field, rows, row, raw, now, amount, take, cap, param)
    local taken, mean, jobs = kept.read(raw)
    local measured, typical, depth, joined = struct.unpack('>I1I6I7I1', param)
    local all, waiting = taken, redis.call('ZCARD', tenant_key('q:' .. plan[field]))
    for other = 1, joined do
      all = all + rows[row - other * 3 + 1]
      waiting = waiting + redis.call('ZCARD', tenant_key('q:' .. plan[field - other]))
    end
    if amount > 0 and (waiting > 0 or all + amount > cap) then
      if amount > cap then
        return all, waiting, -1
      elseif waiting < depth then
        return all, waiting, QUEUES, nil, all + amount <= cap
      end
      return all, waiting, math.max(measured == 1 and jobs >= JOBS_ENOUGH and mean or typical, 1)
    elseif not take then
      return all, waiting, 0
    end
    return all, waiting, 0, kept.taken(raw, now)
  end

  return { check = pool_check, queued = queued_check }
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

-- Returns available + held, held, wait_ms, the new raw value (nil when it does not fit or takes nothing), and what was
-- drawn from its grants, where they are kept apart. `order` is the policy's burn order, or 0.
local function balance_check(raw, amount, take, order)
  if not raw then
    return 0, 0, amount > 0 and -1 or 0
  end
  if #raw < BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  if math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992 then
    error('CORRUPT a balance above 2^53 - 1')
  end
  local available = math.max(granted - reversed - expired - charged + debt - held, 0)
  local kept, grants
  if #raw > BALANCE_SIZE then
    kept = grants_kept()
    grants = kept.read(string.sub(raw, BALANCE_SIZE + 1), available)
  end
  if amount > 0 and amount > available then
    return available + held, held, -1
  end
  local new = take and struct.pack(BALANCE, granted, reversed, charged, held + take, expired, uncollected, debt) or nil
  if not (grants and take) then
    return available + held, held, 0, new
  end
  if order ~= 0 then
    grants[1] = order
  end
  local draws = kept.draw(grants, grants[1], available, take)
  return available + held, held, 0, new .. kept.packed(grants), draws
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

-- Returns units that stand or are held, those held, wait_ms, and the new raw value (nil when it does not fit or takes
-- nothing).
local function count_check(raw, amount, take, cap)
  local kept = counts_kept()
  local standing, held = kept.read(raw)
  if amount > 0 and standing + held + amount > cap then
    return standing + held, held, -1
  end
  return standing + held, held, 0, take and kept.packed(standing, held + take) or nil
end

--[[ The look at everything. A plan's checks arrive as one msgpack sequence (wire_shape.py):
1 now_ms (0: ask the store)  2 account version  3 valid from  4 valid until  5 most standing cells
6 number of checks  7 of these, standing ones  8 number of window scopes, then per scope: its checks, its key's TTL
in ms
then 'v', 'due', and the field of each check
then per check: kind, amount, take (false: nothing), cap, param, shadow
KEYS[5 + n] has the windows of the n-th scope. ]]
local CHECKS, STANDING, SCOPES, SCOPE_SIZE, CHECK_SIZE, ROW, DRAIN_PARAM = 6, 7, 8, 2, 6, 3, 7

-- v, due, then the standing cells that the plan looks at.
local function read_standing(plan)
  local fields = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  return redis.call('HMGET', KEYS[1], unpack(plan, fields, fields + 1 + plan[STANDING]))
end

-- Whether the plan was made for this account and this time; a tenant without an account has version 0.
local function is_current(plan, version, now)
  version = version and (tonumber(version) or error('CORRUPT an account version')) or 0
  return version == plan[2] and now >= plan[3] and now < plan[4]
end

--[[ Looks at every check and works out what taking would write, writing nothing. `standing` is what read_standing gave.
Returns the figures before anything is taken as a msgpack sequence (two numbers of the kind's own and wait_ms per
check), the same as a table, the fields and values to set per scope (1: the standing cells; false: none), which scopes
need their TTL renewed (nil: none), whether any check blocks, whether a standing cell is new, and the blocking windows
that moved back with the clock, per scope (nil: none): to be written even when nothing is taken. What taking draws from
grants that are kept apart is put into plan.draws, by the cell's field. For a request that must wait in a queue,
plan.queued is how many wait there, and plan.free whether a place is free nevertheless. ]]
local function check_all(plan, standing, now)
  local rows = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } -- made at once for five checks, for speed
  local sets, renews, moves = { false, false, false }, nil, nil
  local blocked, opens = false, false
  local row, field = 0, SCOPES + 3 + plan[SCOPES] * SCOPE_SIZE
  local at = field + plan[CHECKS]
  local count, read, before = plan[STANDING], standing, 2
  for scope = 1, 1 + plan[SCOPES] do
    if scope > 1 then
      count, before = plan[SCOPES + (scope - 1) * SCOPE_SIZE - 1], 0
      read = redis.call('HMGET', KEYS[4 + scope], unpack(plan, field, field + count - 1))
    end
    local set, n = false, 0
    for index = 1, count do
      local raw, kind = read[before + index], plan[at]
      local own, other, wait, new, renew
      -- The kinds that keep state, by their number in domain/limits/base.py.
      if kind == 3 then
        own, other, wait, new, renew = window_check(raw, now, plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4])
      elseif kind == 4 and plan[at + 4] ~= 0 then
        local amount, take, cap, param = plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4]
        if #param == DRAIN_PARAM then
          own, other, wait, new = pool_looks().check(raw, now, amount, take, cap, param)
        else
          local free
          own, other, wait, new, free = pool_looks().queued(plan, field, rows, row, raw, now, amount, take, cap, param)
          plan.queued = wait == QUEUES and other
          plan.free = free
        end
      elseif kind == 4 then
        local taken, take = raw and slots_taken(raw) or 0, plan[at + 2]
        own, other, wait = taken, 0, 0
        if plan[at + 1] > 0 and taken + plan[at + 1] > plan[at + 3] then
          wait = -1
        elseif take then
          new = string.format('%.0f', taken + take)
        end
      elseif kind == 5 then
        local draws
        own, other, wait, new, draws = balance_check(raw, plan[at + 1], plan[at + 2], plan[at + 4])
        if draws then
          plan.draws = plan.draws or {}
          plan.draws[plan[field]] = draws
        end
      elseif kind == 6 then
        own, other, wait, new = quota_check(raw, now, plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4])
      elseif kind == 7 then
        own, other, wait, new = count_check(raw, plan[at + 1], plan[at + 2], plan[at + 3])
      end
      rows[row + 1], rows[row + 2], rows[row + 3] = own, other, wait
      if wait ~= 0 and wait ~= QUEUES then
        blocked = blocked or plan[at + 5] == 0
        if new then
          moves = moves or {}
          moves[scope] = moves[scope] or {}
          table.insert(moves[scope], plan[field])
          table.insert(moves[scope], new)
        end
      elseif new and wait == 0 then
        set = set or {}
        set[n + 1], set[n + 2] = plan[field], new
        n = n + 2
        if renew then
          renews = renews or {}
          renews[scope] = true
        end
        opens = opens or (scope == 1 and not raw)
      end
      at, row, field = at + CHECK_SIZE, row + ROW, field + 1
    end
    sets[scope] = set
  end
  local figures = row > 0 and cmsgpack.pack(unpack(rows, 1, row)) or ''
  return figures, rows, sets, renews, blocked, opens, moves
end

-- Writes what check_all worked out; all of it (`sets`), or just windows that moved back with the clock, so that none
-- stays closed until the clock is where it was. Every key's type was seen by the look, so these writes cannot fail.
local function write_all(plan, sets, renews, moves)
  if moves then
    for scope, set in pairs(moves) do
      redis.call('HSET', KEYS[4 + scope], unpack(set))
    end
  end
  for scope = 1, sets and 1 + plan[SCOPES] or 0 do
    local set, key = sets[scope], scope == 1 and KEYS[1] or KEYS[4 + scope]
    if set then
      redis.call('HSET', key, unpack(set))
      if renews and renews[scope] then
        redis.call('PEXPIRE', key, string.format('%.0f', plan[SCOPES + (scope - 1) * SCOPE_SIZE]))
      end
    end
  end
end
-- A balance's param (hold_layout.lua) with what was drawn behind it: a sequence, whether the param was one or a number.
local function drawn(param, draws)
  return (type(param) == 'string' and param or cmsgpack.pack(param)) .. cmsgpack.pack(unpack(draws))
end

local plan = { cmsgpack.unpack(ARGV[1]) }
local gated, id, lease_ms, longest_ms, replay_ms, member, content = cmsgpack.unpack(ARGV[2])
local now = clock(plan[1])

local standing = read_standing(plan)
local earliest = standing[2] and (tonumber(standing[2]) or error('CORRUPT the earliest lease end'))
if earliest and earliest <= now then
  return { 4, now }
end

-- Why nothing is taken, by the reply's first number; nil: everything is.
local verdict, figures, rows, sets, renews, blocked, opens, moves
if not is_current(plan, standing[1], now) then
  verdict = 3
else
  figures, rows, sets, renews, blocked, opens, moves = check_all(plan, standing, now)
  if gated == 1 or blocked then
    verdict = 0
  elseif opens then
    local heads = (standing[1] and 1 or 0) + (earliest and 1 or 0)
    verdict = redis.call('HLEN', KEYS[1]) - heads >= plan[5] and 5 or nil
  end
end
if verdict then
  local known = id ~= '' and redis.call('GET', KEYS[5])
  if known then
    return { 2, now, known }
  elseif verdict == 3 then
    return { 3, now, redis.call('GET', KEYS[2]) or '' }
  elseif verdict == 5 then
    return { 5, now }
  end
  write_all(plan, nil, nil, moves)
  return { 0, now, figures }
end

if id == '' then
  write_all(plan, sets, renews, moves)
  return { 1, now, figures }
end

-- A shadow check that does not fit took nothing, so the hold has nothing of it to give back.
if ARGV[3] and ARGV[3] ~= '' then
  local shadow = { cmsgpack.unpack(ARGV[3]) }
  local count, takes = shadow[1], shadow[2]
  for index = 3, #shadow, 2 do
    if rows[shadow[index] * ROW] == 0 then
      count, takes = count + 1, takes .. shadow[index + 1]
    end
  end
  content = content .. cmsgpack.pack(count) .. takes
end

-- What was drawn from grants goes into the takes, so that it can go back there.
local BALANCE_KIND = 5
if plan.draws then
  local values = { cmsgpack.unpack(content) }
  local takes_at = METERS - 4 + values[METERS - 5] * METER_SIZE
  for take = takes_at + 1, #values, TAKE_SIZE do
    local draws = values[take] == BALANCE_KIND and values[take + 4] > 0 and plan.draws[values[take + 3]]
    if draws then
      values[take + 8] = drawn(values[take + 8], draws)
    end
  end
  content = cmsgpack.pack(unpack(values))
end

if lease_ms == 0 then
  local done = cmsgpack.pack(DONE, now, 0, longest_ms, figures) .. content
  if not redis.call('SET', KEYS[5], done, 'NX', 'PX', string.format('%.0f', replay_ms)) then
    return { 2, now, redis.call('GET', KEYS[5]) }
  end
  write_all(plan, sets, renews, moves)
  return { 1, now, figures }
end

-- A request that must wait takes everything but its place, and stands behind all who came before it to any queue.
local state, pool, terms, arrival = ACTIVE, nil, nil, 0
local lease_end, lease_in = now + lease_ms, lease_ms
if plan.queued then
  local asked = { cmsgpack.unpack(ARGV[4]) }
  pool, terms = asked[2], asked[3]
  state, lease_end, lease_in = QUEUED, now + asked[1], 0
  for index = 4, #asked do
    local last = redis.call('ZRANGE', tenant_key('q:' .. asked[index]), -1, -1, 'WITHSCORES')
    arrival = math.max(arrival, (tonumber(last[2]) or 0) + 1)
  end
end
local due = string.format('%.0f', lease_end)
local first_due = not earliest or lease_end < earliest
if first_due then
  redis.call('ZSCORE', KEYS[4], member)
end
local active = cmsgpack.pack(state, now, lease_in, longest_ms, figures) .. content
if redis.call('ZADD', KEYS[3], 'NX', due, id) == 0 then
  return { 2, now, redis.call('GET', KEYS[5]) }
end
if not redis.call('SET', KEYS[5], active, 'NX') then
  redis.call('ZREM', KEYS[3], id)
  return { 2, now, redis.call('GET', KEYS[5]) }
end
if first_due then
  redis.call('ZADD', KEYS[4], due, member)
  redis.call('HSET', KEYS[1], 'due', due)
end
write_all(plan, sets, renews, moves)
if plan.queued then
  redis.call('ZADD', tenant_key('q:' .. pool), string.format('%.0f', arrival), id)
  redis.call('SET', tenant_key('pools'), terms)
  return { 6, now, figures, plan.queued + 1, plan.free and 1 or 0 }
end
return { 1, now, figures }
