#!lua flags=no-writes
--[[ Looks at every check of a plan and takes nothing: CHECK_ONLY, Estimate, GetUsage.

Keys   1 cells (hash)  2 account (string)  3-5 unused  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)  2 when the cells of quotas are asked for, anything
Reply  {0, now, rows} looked, and behind them the cell of each quota ('': none), if asked for; {3, now, account} planned
       for another version or time; {4, now} holds are overdue: call reap, then ask again. rows: msgpack array, 5 per
       check.
Writes nothing.
Example {0, 1773144000000, <10,0,0,0,0>} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end

--[[ The look at everything. A plan's checks arrive as one msgpack sequence (wire.py):
1 now_ms (0: ask the store)  2 account version  3 valid from  4 valid until  5 most standing cells
6 number of standing checks  7 number of window scopes, then per scope: its checks, its key's TTL in ms
then per check: kind, field, amount, take (false: nothing), cap, param, shadow
KEYS[5 + n] has the windows of the n-th scope. ]]
local SCOPES, SCOPE_SIZE, CHECK_SIZE, ROW = 7, 2, 7, 5

-- The kinds that keep state, by their number in domain/limits/base.py.
local CHECK = { [3] = window_check, [4] = slots_check, [5] = balance_check, [6] = quota_check }
local WINDOW = 3

-- v, due, then the standing cells that the plan looks at.
local function read_standing(plan)
  local fields = { 'v', 'due' }
  local at = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  for check = 1, plan[6] do
    fields[check + 2] = plan[at + 1]
    at = at + CHECK_SIZE
  end
  return redis.call('HMGET', KEYS[1], unpack(fields))
end

-- Whether the plan was made for this account and this time.
local function is_current(plan, version, now)
  return account_version(version) == plan[2] and now >= plan[3] and now < plan[4]
end

--[[ Looks at every check and works out what taking would write, writing nothing. `standing` is what read_standing gave.
Returns the rows (cap, used, held, reset_ms, wait_ms per check, before anything is taken), the fields and values to set
per key number, which keys need their TTL renewed, whether any check blocks, whether a standing cell is new, and the
blocking windows that moved back with the clock, per key number: to be written even when nothing is taken. ]]
local function check_all(plan, standing, now)
  local rows, sets, renews, moves = {}, {}, {}, {}
  local blocked, opens = false, false
  local at, row = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE, 0
  local key, count, read, before = 1, plan[6], standing, 2
  for scope = 0, plan[SCOPES] do
    if scope > 0 then
      key, count, before = 5 + scope, plan[SCOPES + scope * SCOPE_SIZE - 1], 0
      local fields = {}
      for index = 1, count do
        fields[index] = plan[at + 1 + (index - 1) * CHECK_SIZE]
      end
      read = redis.call('HMGET', KEYS[key], unpack(fields))
    end
    local set, n = {}, 0
    for index = 1, count do
      local raw = read[before + index]
      local cap, used, held, reset, wait, new, renew =
        CHECK[plan[at]](raw, now, plan[at + 2], plan[at + 3], plan[at + 4], plan[at + 5], plan[at + 1])
      rows[row + 1], rows[row + 2], rows[row + 3], rows[row + 4], rows[row + 5] = cap, used, held, reset, wait
      if wait ~= 0 then
        blocked = blocked or plan[at + 6] == 0
        if new then
          moves[key] = moves[key] or {}
          table.insert(moves[key], plan[at + 1])
          table.insert(moves[key], new)
        end
      elseif new then
        set[n + 1], set[n + 2] = plan[at + 1], new
        n = n + 2
        renews[key] = renews[key] or renew
        opens = opens or (scope == 0 and not raw)
      end
      at, row = at + CHECK_SIZE, row + ROW
    end
    if n > 0 then
      sets[key] = set
    end
  end
  return rows, sets, renews, blocked, opens, moves
end

-- Brings the rows up to date with what was taken.
local function count_taken(plan, rows)
  local at = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  for row = 0, #rows - 1, ROW do
    local take = plan[at + 3]
    if take and rows[row + 5] == 0 then
      rows[row + 2] = rows[row + 2] + take
      if plan[at] ~= WINDOW then
        rows[row + 3] = rows[row + 3] + take
      elseif rows[row + 4] == 0 and take > 0 then
        rows[row + 4] = plan[at + 5]
      end
    end
    at = at + CHECK_SIZE
  end
end

-- The rows as one msgpack array.
local function packed_rows(rows)
  local body = #rows > 0 and cmsgpack.pack(unpack(rows)) or ''
  return string.char(0xdc, math.floor(#rows / 256), #rows % 256) .. body
end

-- Writes windows that moved back with the clock, so that none stays closed until the clock is where it was.
local function write_moves(moves)
  for key, set in pairs(moves) do
    redis.call('HSET', KEYS[key], unpack(set))
  end
end

-- Writes what check_all worked out. Every key's type was seen by the look, so these writes cannot fail.
local function write_all(plan, sets, renews, moves)
  write_moves(moves)
  for key, set in pairs(sets) do
    redis.call('HSET', KEYS[key], unpack(set))
    if renews[key] then
      redis.call('PEXPIRE', KEYS[key], string.format('%.0f', plan[SCOPES + (key - 5) * SCOPE_SIZE]))
    end
  end
end

local plan = { cmsgpack.unpack(ARGV[1]) }
local now = clock(plan[1])
local standing = read_standing(plan)
if standing[2] and tonumber(standing[2]) <= now then
  return { 4, now }
end
if not is_current(plan, standing[1], now) then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end
local reply = { 0, now, packed_rows((check_all(plan, standing, now))) }
if ARGV[2] then
  local at = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  for check = 1, plan[6] do
    if plan[at] == 6 then
      reply[#reply + 1] = standing[check + 2] or ''
    end
    at = at + CHECK_SIZE
  end
end
return reply
