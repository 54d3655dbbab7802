#!lua flags=allow-oom
--[[ Gives back everything that no report has charged and ends the hold.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 unused  5 hold (string)
Args   1 msgpack sequence: now_ms (0: ask the store), hold id
Reply  {1, now, hold} applied; {2, now, hold} it had ended before, nothing to apply; {3, now} no such hold;
       {4, now} holds are overdue: call reap, then ask again.
Writes due, cells and windows of the hold's takes, hold. A second release finds
       the hold ended and frees nothing of its neighbours'.
Example {1, 1773144000000, <3,...>} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- Renders an integer for a command. tostring() and .. turn large numbers into exponents.
local function int(n)
  return string.format('%.0f', n)
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
--[[ A hold's record: msgpack values one behind the other.
1 state  2 created_ms  3 lease_end_ms (0: no lease)  4 longest_end_ms  5 looks (msgpack array of 5 per check, opaque)
6 fingerprint  7 lease_ms  8 tombstone_ms  9 note (opaque)
10 number of meters, then per meter: name, reserved, reported (-1: never), uncollected
then the number of takes, then per take: kind, meter (0: follows no report), scope, field, amount,
ms since created, base, last, param (a balance's debt bound, -1 - bound where it has a ledger, or with draws, see
draws.lua; a window's length in ms, negative where a release returns even the request; a quota's cycle and
thresholds, packed) ]]
local ACTIVE, SETTLED, RELEASED, EXPIRED, SETTLED_LATE, DONE = 1, 2, 3, 4, 5, 6
local METERS, METER_SIZE, TAKE_SIZE = 10, 4, 9
local BALANCE_KIND = 5 -- as in domain/limits/base.py

local function hold_read(raw)
  local hold = { cmsgpack.unpack(raw) }
  local meters = hold[METERS]
  local takes = type(meters) == 'number' and hold[METERS + 1 + meters * METER_SIZE]
  if type(takes) ~= 'number' or #hold ~= METERS + 1 + meters * METER_SIZE + takes * TAKE_SIZE then
    error('CORRUPT a hold of ' .. #raw .. ' bytes')
  end
  for _, number in ipairs({ 1, 2, 3, 4, 7, 8 }) do
    local value = hold[number]
    if type(value) ~= 'number' or value < 0 or value % 1 ~= 0 or (number == 8 and value == 0) then
      error('CORRUPT a hold in its field ' .. number)
    end
  end
  if hold[1] < ACTIVE or hold[1] > DONE then
    error('CORRUPT a hold in state ' .. hold[1])
  end
  for at = METERS + 1, METERS + meters * METER_SIZE, METER_SIZE do
    if type(hold[at]) ~= 'string' or type(hold[at + 1] + hold[at + 2] + hold[at + 3]) ~= 'number' then
      error('CORRUPT a meter of a hold')
    end
  end
  return hold
end

-- Index of the number of takes.
local function takes_at(hold)
  return METERS + 1 + hold[METERS] * METER_SIZE
end

-- Index of a meter's name, from its number.
local function meter_at(number)
  return METERS + 1 + (number - 1) * METER_SIZE
end

local function hold_packed(hold)
  return cmsgpack.pack(unpack(hold))
end
-- Why a take is changed; the numbers are those of domain/limits/base.py.
local REPORT, SETTLE, RELEASE, EXPIRE = 1, 2, 3, 4

-- The part of a meter's reported total that falls on one take. A raise adds a take that starts at `base`; the
-- last one carries what is used beyond the reserved total.
local function share(total, amount, base, last)
  local beyond = math.max(total - base, 0)
  if last == 1 then
    return beyond
  end
  return math.min(beyond, amount)
end
--[[ window: a rolling-window rate. Twin of server/domain/limits/window.py.

A cell is one string: total (7 bytes), first instant of the newest entry (6), then the entries (instant 6, amount
7), oldest first. A window of length W at t covers (t - W, t]; an entry made at t0 stops counting at t0 + W.
Up to 64 entries every instant is kept apart. Beyond that an entry made within W/1000 of the first instant of the
newest one joins it at the later instant: it counts longer by at most W/1000, never shorter, so that a window has
at most about 1,064 entries (14 KB) whatever the amounts. ]]
local WINDOW_HEAD, WINDOW_ENTRY, WINDOW_EXACT = 13, 13, 64

-- Moves all entries back when the clock stepped back behind them, so that nobody is locked out for longer.
local function window_moved_back(raw, step)
  local total, first = struct.unpack('>I7I6', raw)
  local parts = { struct.pack('>I7I6', total, math.max(first - step, 0)) }
  for at = WINDOW_HEAD + 1, #raw, WINDOW_ENTRY do
    local instant, amount = struct.unpack('>I6I7', raw, at)
    parts[#parts + 1] = struct.pack('>I6I7', instant - step, amount)
  end
  return table.concat(parts)
end

--[[ Looks, and works out the cell with `take` added (false: take nothing).
Returns cap, used, held, reset_ms, wait_ms, new raw value (nil when it takes nothing; when it does not fit, only where
the clock stepped back: the cell moved with it), and whether the key's TTL should be renewed: the newest entry was
made in another half of a window's length. ]]
local function window_check(raw, now, amount, take, cap, length)
  local size, at, total, first, newest, newest_amount = 0, 1, 0, 0, 0, 0
  local reset, moved = 0, nil
  if raw and #raw > WINDOW_HEAD then
    size = #raw
    if (size - WINDOW_HEAD) % WINDOW_ENTRY ~= 0 then
      error('CORRUPT a window cell of ' .. size .. ' bytes')
    end
    newest, newest_amount = struct.unpack('>I6I7', raw, size - WINDOW_ENTRY + 1)
    if newest > now then
      raw = window_moved_back(raw, newest - now)
      newest, moved = now, raw
    end
    if newest <= now - length then
      size = 0
    else
      local oldest, leaving
      total, first, oldest, leaving = struct.unpack('>I7I6I6I7', raw)
      at = WINDOW_HEAD + 1
      while oldest <= now - length do
        total = total - leaving
        at = at + WINDOW_ENTRY
        oldest, leaving = struct.unpack('>I6I7', raw, at)
      end
      -- Entries of 0 wait for usage; `used` falls when the first that counts leaves.
      local first_at = at
      while total > 0 and leaving == 0 do
        first_at = first_at + WINDOW_ENTRY
        oldest, leaving = struct.unpack('>I6I7', raw, first_at)
      end
      reset = total > 0 and oldest + length - now or 0
    end
  elseif raw and #raw < WINDOW_HEAD then
    error('CORRUPT a window cell of ' .. #raw .. ' bytes')
  end

  local missing = total - (cap - amount)
  if amount > 0 and missing > 0 then
    local wait = -1
    if amount <= cap then
      for entry = at, size, WINDOW_ENTRY do
        local instant, leaving = struct.unpack('>I6I7', raw, entry)
        missing = missing - leaving
        if missing <= 0 then
          wait = instant + length - now
          break
        end
      end
    end
    return cap, total, 0, reset, wait, moved
  end
  if not take then
    return cap, total, 0, reset, 0
  end

  local kept = ''
  if size > 0 then
    if newest == now or (now - first <= length / 1000 and size - at >= WINDOW_EXACT * WINDOW_ENTRY - 1) then
      kept = string.sub(raw, at, size - WINDOW_ENTRY)
      first = math.min(first, now)
    else
      kept, first, newest_amount = string.sub(raw, at), now, 0
    end
  else
    first, newest_amount = now, 0
  end
  local half = length / 2
  return cap, total, 0, reset, 0,
    struct.pack('>I7I6', total + take, first) .. kept .. struct.pack('>I6I7', now, newest_amount + take),
    size == 0 or math.floor(newest / half) ~= math.floor(now / half)
end

--[[ Adds `difference` to the entry that counts what was taken at `instant`: the first that is not older, and not later
than merging explains. The clock may have stepped back and moved the entry: then more usage counts with a neighbour, and
less changes nothing, so that no other's usage is taken away. ]]
local function window_adjusted(raw, instant, difference, length)
  local count = (#raw - WINDOW_HEAD) / WINDOW_ENTRY
  if count < 1 or count % 1 ~= 0 then
    error('CORRUPT a window cell of ' .. #raw .. ' bytes')
  end
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I6', raw, WINDOW_HEAD + 1 + middle * WINDOW_ENTRY) < instant then
      low = middle + 1
    else
      high = middle
    end
  end
  local at = WINDOW_HEAD + 1 + math.min(low, count - 1) * WINDOW_ENTRY
  local total, first = struct.unpack('>I7I6', raw)
  local entry, amount = struct.unpack('>I6I7', raw, at)
  if difference < 0 and (low == count or entry - instant > length / 1000) then
    return raw
  end
  local changed = math.max(amount + difference, 0)
  total = total + (changed - amount)
  if total < 0 or total >= 9007199254740992 then
    error('CORRUPT a window outside 0 to 2^53 - 1')
  end
  return struct.pack('>I7I6', total, first)
    .. string.sub(raw, WINDOW_HEAD + 1, at - 1)
    .. struct.pack('>I6I7', entry, changed)
    .. string.sub(raw, at + WINDOW_ENTRY)
end

-- new raw value, uncollected. Entries follow the reported total; one that has left changes no more. `param` is the
-- window's length, negative where a release returns even the request.
local function window_finish(raw, ending, _, amount, instant, base, last, param, before, after, now)
  local was, now_counts
  if after < 0 then
    was, now_counts = amount, (ending == RELEASE and param < 0) and 0 or amount
  else
    was, now_counts = math.max(amount, share(before, amount, base, last)), share(after, amount, base, last)
    if ending == REPORT or ending == EXPIRE then
      now_counts = math.max(amount, now_counts)
    end
  end
  local length = math.abs(param)
  if not raw or now_counts == was or instant <= now - length then
    return raw, 0
  end
  return window_adjusted(raw, instant, now_counts - was, length), 0
end
--[[ slots: a pool of concurrent places. Twin of server/domain/limits/slots.py. A cell is a decimal count; an
empty pool has no cell. Whose place it is stands in the holds; overdue ones are given back before anybody looks. ]]

local function slots_taken(raw)
  local taken = tonumber(raw)
  if not taken or taken < 0 or taken >= 9007199254740992 or taken % 1 ~= 0 then
    error('CORRUPT a slots cell')
  end
  return taken
end

-- Returns cap, used, held, reset_ms, wait_ms, and the new raw value (nil when it does not fit or takes nothing).
local function slots_check(raw, _, amount, take, cap)
  local taken = raw and slots_taken(raw) or 0
  if amount > 0 and taken + amount > cap then
    return cap, taken, taken, -1, -1
  end
  return cap, taken, taken, -1, 0, take and string.format('%.0f', taken + take) or nil
end

-- new raw value (false: none), uncollected. Places are freed when the hold ends, however it ends.
local function slots_finish(raw, ending, live, amount)
  if not live or ending == REPORT or not raw then
    return raw, 0
  end
  local left = slots_taken(raw) - amount
  return left > 0 and int(left), 0
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

--[[ new raw value, uncollected, whether the ledger wants an entry. Charges the hold's own units, then unreserved ones,
then debt up to the bound. `param` is the bound, -1 - bound where movements go to the ledger, or with draws
(draws.lua). What a hold does not use goes back to the grant that it came from, or is expired with it. ]]
local function balance_finish(raw, ending, live, amount, _, base, last, param, before, after)
  local draws = type(param) == 'string' and { cmsgpack.unpack(param) }
  local bound = draws and draws[1] or param
  local ledgered = bound < 0
  if ledgered then
    bound = -1 - bound
  end
  local b, available, grants = balance_open(raw)
  before, after = share(before, amount, base, last), share(after, amount, base, last)
  local own = live and math.max(amount - before, 0) or 0
  local from_own = math.min(after - before, own)
  local rest = after - before - from_own
  local from_available = math.min(rest, math.max(available, 0))
  local from_debt = math.min(rest - from_available, math.max(bound - b[7], 0))
  local uncollected = rest - from_available - from_debt
  if grants then
    grants_kept().draw(grants, grants[1], available, from_available)
  end
  local over = 0
  if draws and live and ending ~= REPORT then
    over = grants_kept().give_back(grants, draws, math.min(after, amount))
  end
  b[4] = b[4] - (ending == REPORT and from_own or own)
  b[7] = b[7] + from_debt
  b[3] = b[3] + (after - before - uncollected)
  b[5] = b[5] + over
  b[6] = b[6] + uncollected
  return balance_packed(b, grants), uncollected, ledgered and (after > before or over > 0)
end
--[[ quota: an allowance per cycle. Twin of server/domain/limits/quota.py.

A cell is an entry per cycle, the latest first (engine/quota_cells.py): start, end, limit, overage allowed, grace in ms,
price, within, overage, grace, over_hard, held, exhausted at, noted. So a cycle rolls over by putting an entry in front,
and the number of cells does not grow. A hold finds its cycle by the start, and so does a clock that went back. ]]
local QUOTA, QUOTA_SIZE = '>I6I7I7I7I6I7I7I7I7I7I7I6I1', 82
local QUOTA_TERMS = '>I6I7I6I7I7'
local QUOTA_PAST = 12
local QUOTA_MOST = 9007199254740991

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

-- The cell with one entry more at `at`. Cycles that are too old leave, unless a hold is still open in them.
local function quota_with(raw, at, entry)
  local size = #raw
  while size >= (QUOTA_PAST + 1) * QUOTA_SIZE and at <= size do
    local _, _, _, _, _, _, _, _, _, _, held = struct.unpack(QUOTA, raw, size - QUOTA_SIZE + 1)
    if held > 0 then
      break
    end
    size = size - QUOTA_SIZE
  end
  return string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at, size)
end

--[[ Returns cap, used (held included), held, reset_ms, wait_ms, and the new raw value (nil when it does not fit or
takes nothing). Nothing is refused before enforcement, which begins `grace` after settled use reached the limit and its
overage; from then on a request fits whole or not at all. ]]
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
    return cap, used + held, held, stop - now, (grace > 0 or amount <= bound) and stop - now or -1
  end
  if not take then
    return cap, used + held, held, stop - now, 0
  end
  local entry = struct.pack(QUOTA, start, stop, cap, overage, grace, price,
    within, billed, graced, over, held + take, exhausted, noted)
  if not raw then
    return cap, used + held, held, stop - now, 0, entry
  end
  if found then
    entry = string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE)
  else
    entry = quota_with(raw, at, entry)
  end
  return cap, used + held, held, stop - now, 0, entry
end

-- Units at which `percent` of a limit is reached, rounded up; split so that no product passes 2^53.
local function quota_threshold(limit, percent)
  local rest = limit % 100
  return (limit - rest) / 100 * percent + math.ceil(rest * percent / 100)
end

--[[ new raw value, uncollected (never), false, and the thresholds that were crossed: start, percent, limit, used of
each.
`param` has the start of the cycle that the take belongs to, and the thresholds, a byte each. What was delivered is
charged in full: up to the limit, up to the overage, and above both to the grace if the hold was made before that
ended. ]]
local function quota_finish(raw, ending, live, amount, instant, base, last, param, before, after, now)
  if not raw then
    error('CORRUPT a hold of a quota that has no cell')
  end
  local at, found = quota_place(raw, struct.unpack('>I6', param))
  if not found then
    at = #raw - QUOTA_SIZE + 1 -- its cycle left long ago: the oldest one takes the use, so that none is lost
  end
  local start, stop, limit, overage, grace, price, within, billed, graced, over, held, exhausted, noted =
    struct.unpack(QUOTA, raw, at)
  before, after = share(before, amount, base, last), share(after, amount, base, last)
  local own = live and math.max(amount - before, 0) or 0
  held = held - (ending == REPORT and math.min(after - before, own) or own)
  local crossed
  if after > before then
    local bound, used = math.min(limit + overage, QUOTA_MOST), within + billed + graced + over
    local new = used + after - before
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
    for index = 7, #param do
      local percent = string.byte(param, index)
      if percent > noted and limit < QUOTA_MOST and new >= quota_threshold(limit, percent) then
        noted = percent
        crossed = crossed or {}
        crossed[#crossed + 1] = { start, percent, limit, new }
      end
    end
  end
  if held < 0 or within + billed + graced + over + held > QUOTA_MOST then
    error('CORRUPT a quota outside 0 to 2^53 - 1')
  end
  local entry = struct.pack(QUOTA, start, stop, limit, overage, grace, price,
    within, billed, graced, over, held, exhausted, noted)
  return string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE), 0, false, crossed
end

--[[ Notes for the tenant's people, in the stream hg:{p/t}:note: each a list of fields with values (engine/notes.py).
The oldest leave when there are more than this. ]]
local MOST_NOTES = '1000'

-- Before the first write of a step that has notes: only a wrong type could still stop them.
local function see_notes(notes)
  if #notes > 0 then
    redis.call('XLEN', note_key())
  end
end

local function write_notes(notes)
  for _, note in ipairs(notes) do
    redis.call('XADD', note_key(), 'MAXLEN', '=', MOST_NOTES, '*', unpack(note))
  end
end

-- A quota's thresholds that a settle crossed, as notes.
local function crossing_notes(notes, field, crossed, now)
  for _, one in ipairs(crossed) do
    local start, percent, limit, used = unpack(one)
    notes[#notes + 1] = {
      'kind', 'threshold', 'at', int(now), 'cell', field, 'cycle', int(start),
      'percent', int(percent), 'limit', int(limit), 'used', int(used),
    }
  end
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

-- The kinds that keep state, by their number in domain/limits/base.py.
local FINISH = { [3] = window_finish, [4] = slots_finish, [5] = balance_finish, [6] = quota_finish }

-- Drops the takes that `keep`, given a take's index, does not want.
local function drop_takes(hold, keep)
  local at = takes_at(hold)
  local kept = 0
  for from = at + 1, at + hold[at] * TAKE_SIZE, TAKE_SIZE do
    if keep(from) then
      local to = at + 1 + kept * TAKE_SIZE
      for offset = 0, TAKE_SIZE - 1 do
        hold[to + offset] = hold[from + offset]
      end
      kept = kept + 1
    end
  end
  for index = #hold, at + 1 + kept * TAKE_SIZE, -1 do
    hold[index] = nil
  end
  hold[at] = kept
end

--[[ One step in a hold's life: brings every cell that it took from to the new totals, then stores the record.
`after` has the reported total of each meter, by its number; `state` is the hold's next state. Reads and works out
everything before the first write; ZREM comes first because only it could still find a wrong type. ]]
local function finish(id, hold, ending, state, after, now)
  local live = hold[1] == ACTIVE
  local at = takes_at(hold)
  local scopes, fields, values, notes, entries = {}, {}, {}, {}, {}
  for take = at + 1, at + hold[at] * TAKE_SIZE, TAKE_SIZE do
    local scope, field = hold[take + 2], hold[take + 3]
    if not values[scope] then
      scopes[#scopes + 1] = scope
      fields[scope], values[scope] = {}, {}
    end
    if values[scope][field] == nil then
      fields[scope][#fields[scope] + 1] = field
      values[scope][field] = false
    end
  end
  for _, scope in ipairs(scopes) do
    local read = redis.call('HMGET', cell_key(scope), unpack(fields[scope]))
    for index, field in ipairs(fields[scope]) do
      values[scope][field] = read[index]
    end
  end
  for take = at + 1, at + hold[at] * TAKE_SIZE, TAKE_SIZE do
    local kind, meter, scope, field = hold[take], hold[take + 1], hold[take + 2], hold[take + 3]
    local before, total = -1, -1
    if meter > 0 then
      before, total = math.max(hold[meter_at(meter) + 2], 0), after[meter]
    end
    local new, uncollected, moved, crossed = FINISH[kind](
      values[scope][field], ending, live, hold[take + 4], hold[2] + hold[take + 5],
      hold[take + 6], hold[take + 7], hold[take + 8], before, total, now
    )
    if moved then
      entries[#entries + 1] = ledger_entry(now, ending, id, field, values[scope][field], new)
    end
    values[scope][field] = new
    if crossed then
      crossing_notes(notes, field, crossed, now)
    end
    if uncollected > 0 then
      hold[meter_at(meter) + 3] = hold[meter_at(meter) + 3] + uncollected
    end
  end
  for meter, total in ipairs(after) do
    -- What was never reported stays so until a final settle: it may yet be charged as reserved.
    if ending == SETTLE or total > 0 then
      hold[meter_at(meter) + 2] = total
    end
  end
  hold[1] = state
  if state ~= ACTIVE then
    drop_takes(hold, function(take)
      return state == EXPIRED and hold[take + 1] > 0 -- a late settle still changes it
    end)
  end
  local record, tombstone_ms = hold_packed(hold), int(hold[8])
  if #entries > 0 then
    ledger_look()
  end
  local sets, gone = {}, {}
  for _, scope in ipairs(scopes) do
    sets[scope], gone[scope] = {}, {}
    for _, field in ipairs(fields[scope]) do
      local value = values[scope][field]
      if value then
        table.insert(sets[scope], field)
        table.insert(sets[scope], value)
      else
        table.insert(gone[scope], field)
      end
    end
  end

  see_notes(notes)
  if live and state ~= ACTIVE then
    redis.call('ZREM', KEYS[3], id)
  end
  for _, scope in ipairs(scopes) do
    -- A window cell whose key has left is not brought back: it would have no TTL.
    if #sets[scope] > 0 then
      redis.call('HSET', cell_key(scope), unpack(sets[scope]))
    end
    if #gone[scope] > 0 then
      redis.call('HDEL', cell_key(scope), unpack(gone[scope]))
    end
  end
  if state == ACTIVE or not live then
    redis.call('SET', hold_key(id), record, 'KEEPTTL')
  else
    redis.call('SET', hold_key(id), record, 'PX', tombstone_ms)
  end
  write_notes(notes)
  ledger_write(entries)
end

-- The reported totals as they stand, by meter number; nothing reported counts as 0.
local function reported(hold)
  local totals = {}
  for meter = 1, hold[METERS] do
    totals[meter] = math.max(hold[meter_at(meter) + 2], 0)
  end
  return totals
end

local args = { cmsgpack.unpack(ARGV[1]) }
local id = args[2]
local now = clock(args[1])

local due = redis.call('HGET', KEYS[1], 'due')
if due and tonumber(due) <= now then
  return { 4, now }
end
local raw = redis.call('GET', KEYS[5])
if not raw then
  return { 3, now }
end
local hold = hold_read(raw)
if hold[1] ~= ACTIVE then
  return { 2, now, raw }
end
finish(id, hold, RELEASE, RELEASED, reported(hold), now)
return { 1, now, hold_packed(hold) }
