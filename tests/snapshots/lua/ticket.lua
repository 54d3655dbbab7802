#!lua
--[[ Renews a place in a queue, or claims the place that its turn has brought: what a repeat of its request does.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)
       5 hold (string)  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)
       2 msgpack sequence: hold id, the pool's part of the hold as the caller keeps it (queues.lua; '': as it was)
Reply  {1, now, hold, rows, position, lasts_ms, free} it waits, its ticket for so long; free: 1 when its turn may come
       with new terms of the queues; {2, now, hold, rows} it has its place; {0, now, hold} it waits no more;
       {7, now, hold} the plan's pool has no queue (any more), nothing is renewed;
       {3, now, account} planned for another version or time; {4, now} holds are overdue: call reap, then ask again;
       {6, now} no such hold. rows: as in reserve.lua.
Writes due, hold; for a ticket that ends before all else does, also cells.due and the index.
Example {1, 1773144000000, <7,...>, <3,5,-2>, 3, 30000, 0} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
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

local plan = { cmsgpack.unpack(ARGV[1]) }
local id, kept = cmsgpack.unpack(ARGV[2])
local now = clock(plan[1])

local standing = read_standing(plan)
if standing[2] and tonumber(standing[2]) <= now then
  return { 4, now }
end
local raw = redis.call('GET', KEYS[5])
if not raw then
  return { 6, now }
end
local hold, at = hold_read(raw)
if hold[1] ~= QUEUED and hold[1] ~= PROMOTED then
  return { 0, now, raw }
end
if not is_current(plan, standing[1], now) then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end
local figures = check_all(plan, standing, now)
local take = queues_kept().take(hold, at)
redis.call('ZSCORE', KEYS[3], id)

if hold[1] == PROMOTED then
  local started = hold[take + 5]
  hold[1], hold[3] = ACTIVE, math.min(started + hold[7], hold[4])
  local record = cmsgpack.pack(unpack(hold))
  redis.call('ZADD', KEYS[3], 'XX', string.format('%.0f', hold[2] + hold[3]), id)
  redis.call('SET', KEYS[5], record)
  return { 2, now, record, figures }
end

-- Its position: all who came before it to the queues that share its pool's places.
local field, joined, arrival = hold[take + 3], 0, redis.call('ZSCORE', tenant_key('q:' .. hold[take + 3]), id)
local first_field = SCOPES + 3 + plan[SCOPES] * SCOPE_SIZE
local position, own = 1, nil
for check = 1, plan[STANDING] do
  local param = plan[first_field + plan[CHECKS] + (check - 1) * CHECK_SIZE + 4]
  if plan[first_field + check - 1] == field and type(param) == 'string' and #param > DRAIN_PARAM then
    own, joined = first_field + check - 1, string.byte(param, #param)
  end
end
if not arrival then
  error('CORRUPT a hold that waits in no queue')
elseif not own then
  return { 7, now, raw }
end
for other = 0, joined do
  local queue = tenant_key('q:' .. plan[own - other])
  position = position + redis.call('ZCOUNT', queue, '-inf', '(' .. arrival)
end
if kept == '' then
  kept = hold[take + 8]
end
-- A call that takes over from a client who only looked by now and then has a shorter ticket.
local due = now + struct.unpack('>I4', kept, TICKET_AT)
local first_due = not standing[2] or due < tonumber(standing[2])
if first_due then
  redis.call('ZSCORE', KEYS[4], MEMBER)
end
local ends = string.format('%.0f', due)
redis.call('ZADD', KEYS[3], 'XX', ends, id)
if first_due then
  redis.call('ZADD', KEYS[4], ends, MEMBER)
  redis.call('HSET', KEYS[1], 'due', ends)
end
if hold[take + 8] ~= kept then
  hold[take + 8] = kept
  raw = cmsgpack.pack(unpack(hold))
  redis.call('SET', KEYS[5], raw)
end
return { 1, now, raw, figures, position, (struct.unpack('>I4', kept, TICKET_AT)), plan.free and 1 or 0 }
