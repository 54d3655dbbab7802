#!lua
--[[ Renews a hold's lease; may report usage; may raise amounts where the raise fits.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)
       5 hold (string)  6.. windows (hash), one per scope of the raise, in the plan's order
Args   1 plan (checks.lua); with no checks when nothing is raised. Amounts are the new totals
       2 msgpack sequence: hold id, raises (1 or 0), gated (1: a guard or gate refuses a raise), number of reports,
         per report: meter, total; number of raised totals, per total: meter, total; then per check: meter (by its
         number in the hold; 0: follows no report), scope, hold param
       3 when it starts a hold whose time is paid, a msgpack sequence: the note that the hold must have, its new note,
         its longest end, tenant's member in the index
Reply  {1, now, hold, rows, taken} renewed and raised, or no raise was asked for, and then there are no rows;
       {0, now, hold, rows, taken} renewed, and the raise does not fit; {3, now, account} planned for another version
       or time; {4, now} holds are overdue: call reap, then ask again; {5, now, hold} not active;
       {6, now} no such hold; {7, now, meter} the hold has no such
       meter; {8, now, hold} raised more often than a record can hold; {9, now} another one started the hold. rows: as
       in reserve.lua; taken: msgpack sequence of what each check took.
Writes the report as a phase complete in itself; then due, hold, cells, windows; cells.due and index when it starts. A
       hold that is missing from the due set is put back there.
Example {1, 1773144000000, <1,...>, <>, <>} ]]
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
-- Why a take is changed; the numbers are those of domain/limits/base.py.
local REPORT, SETTLE, RELEASE, EXPIRE = 1, 2, 3, 4
--[[ window: a rolling-window rate. Twin of server/domain/limits/window.py.

A cell is one string: the entries (instant 6 bytes, amount 7), oldest first, then total (7) and the first instant of the
newest entry (6). A window of length W at t covers (t - W, t]; an entry made at t0 stops counting at t0 + W.
Up to 64 entries every instant is kept apart. Beyond that an entry made within W/1000 of the first instant of the
newest one joins it at the later instant: it counts longer by at most W/1000, never shorter, so that a window has
at most about 1,064 entries (14 KB) whatever the amounts. ]]
local WINDOW_ENTRY, WINDOW_TAIL, WINDOW_EXACT = 13, 13, 64

--[[ New raw value. Entries follow the reported total (`before` and `after` are
this take's part of it); one that has left changes no more. `param` is the window's length,
negative where a release returns even the request.

The entry that counts what was taken at `instant` is the first that is not older, and not later than merging explains.
The clock may have stepped back and moved the entry: then more usage counts with a neighbour, and less changes nothing,
so that no other's usage is taken away. ]]
local function window_finish(raw, ending, taken, instant, param, before, after, now)
  local was, now_counts
  if after < 0 then
    was, now_counts = taken, (ending == RELEASE and param < 0) and 0 or taken
  else
    was, now_counts = math.max(taken, before), after
    if ending == REPORT or ending == EXPIRE then
      now_counts = math.max(taken, now_counts)
    end
  end
  local length, difference = math.abs(param), now_counts - was
  if not raw or difference == 0 or instant <= now - length then
    return raw
  end
  local tail = #raw - WINDOW_TAIL + 1
  local count = (tail - 1) / WINDOW_ENTRY
  if count < 1 or count % 1 ~= 0 then
    error('CORRUPT a window cell of ' .. #raw .. ' bytes')
  end
  -- Most holds are young: double the step back from the newest entry, then halve what is left.
  local low, high, step = count - 1, count, 1
  while low > 0 and struct.unpack('>I6', raw, low * WINDOW_ENTRY + 1) >= instant do
    high, step = low, step * 2
    low = math.max(low - step, 0)
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I6', raw, middle * WINDOW_ENTRY + 1) < instant then
      low = middle + 1
    else
      high = middle
    end
  end
  local at = math.min(low, count - 1) * WINDOW_ENTRY + 1
  local total, first = struct.unpack('>I7I6', raw, tail)
  local entry, amount = struct.unpack('>I6I7', raw, at)
  if difference < 0 and (low == count or entry - instant > length / 1000) then
    return raw
  end
  local changed = math.max(amount + difference, 0)
  total = total + (changed - amount)
  if total < 0 or total >= 9007199254740992 then
    error('CORRUPT a window outside 0 to 2^53 - 1')
  end
  return string.sub(raw, 1, at - 1)
    .. struct.pack('>I6I7', entry, changed)
    .. string.sub(raw, at + WINDOW_ENTRY, tail - 1)
    .. struct.pack('>I7I6', total, first)
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

-- Behind the bound, in the param of a balance with marks.
local FIRST_MARK = 2

--[[ New raw value, uncollected, whether the ledger wants an entry, which marks were reached (nil: none). Charges the
hold's own units, then unreserved ones, then debt up to the bound. `param` is the bound, -1 - bound where movements go
to the ledger, or with marks and draws (hold_layout.lua). What a hold does not use goes back to the grant that it came
from, or is expired with it. ]]
local function balance_finish(raw, ending, live, amount, param, before, after, field)
  local bound, draws, marks = param, nil, nil
  if type(param) == 'string' then
    draws = { cmsgpack.unpack(param) }
    bound = draws[1]
    if type(bound) == 'string' then
      marks = { cmsgpack.unpack(bound) }
      bound = marks[1]
    end
    draws = draws[2] and draws
  end
  local ledgered = bound < 0
  if ledgered then
    bound = -1 - bound
  end
  local granted, reversed, charged, held, expired, uncollected, debt = 0, 0, 0, 0, 0, 0, 0
  if raw then
    if #raw < BALANCE_SIZE then
      error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
    end
    granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  end
  local had = granted - reversed - expired - charged + debt
  local kept, grants
  if raw and #raw > BALANCE_SIZE then
    kept = grants_kept()
    grants = kept.read(string.sub(raw, BALANCE_SIZE + 1), granted - reversed - expired - charged + debt - held)
  end
  before, after = before > 0 and before or 0, after > 0 and after or 0
  local own = live and amount > before and amount - before or 0
  local from_own = after - before < own and after - before or own
  local rest = after - before - from_own
  local lost = 0
  if rest > 0 then
    local available = granted - reversed - expired - charged + debt - held
    local from_available = math.min(rest, math.max(available, 0))
    local from_debt = math.min(rest - from_available, math.max(bound - debt, 0))
    lost = rest - from_available - from_debt
    debt = debt + from_debt
    if grants then
      kept.draw(grants, grants[1], available, from_available)
    end
  end
  local over = 0
  if draws and live and ending ~= REPORT then
    over = (kept or grants_kept()).give_back(grants, draws, math.min(after, amount))
  end
  held = held - (ending == REPORT and from_own or own)
  charged = charged + (after - before - lost)
  expired = expired + over
  uncollected = uncollected + lost
  if
    held < 0
    or debt < 0
    or math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992
  then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  local new = struct.pack(BALANCE, granted, reversed, charged, held, expired, uncollected, debt)
  if grants then
    new = new .. kept.packed(grants)
  end
  local falls
  if marks then
    local left = granted - reversed - expired - charged + debt
    falls = marks_reached(nil, field, marks, FIRST_MARK, had, left)
  end
  return new, lost, ledgered and (after > before or over > 0), falls
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

--[[ One step in a hold's life: brings every cell that it took from to the new totals, then stores the record.
`at` is the index of the hold's number of takes; `after` has the reported total of each meter, by its number; `state` is
the hold's next state; `name` is the allocation that a final settle makes of the hold's counts. Reads and works out
everything before the first write; ZREM comes first because only it could still find a wrong type. Returns the new
record, or nil when holds are overdue, which must be reaped first; and whether turns are left for reap to make. Whose
turn it is when a place is freed is part of the step, unless it is one of reap's (`reaps`), which sees to the turns once
at its end.
Takes of one scope stand together in a record, and those of one cell too. ]]
local function finish(key, id, hold, at, ending, state, after, now, name, reaps)
  local was, created, last = hold[1], hold[2], #hold
  local live = was == ACTIVE or was == QUEUED or was == PROMOTED
  local due_known, crossings, entries, known, stands, freed, leaves = reaps, nil, nil, nil, nil, nil, nil
  local writes, groups, take = { false, false, false, false, false, false, false, false }, 0, at + 1
  while take <= last do
    local scope = hold[take + 2]
    local place, fields, count = KEYS[1], { 'due', false, false, false }, 1
    if scope ~= '' then
      place, count = tenant_key(scope), 0
    end
    local before_first = count
    for index = take, last, TAKE_SIZE do
      if hold[index + 2] ~= scope then
        break
      end
      count = count + 1
      fields[count] = hold[index + 3]
    end
    local read = redis.call('HMGET', place, unpack(fields, 1, count))
    if before_first == 1 then
      if not due_known and read[1] and tonumber(read[1]) <= now then
        return nil
      end
      due_known = true
    end
    local set, size, gone, field, new = { false, false, false, false }, 0, nil, nil, nil
    for index = before_first + 1, count do
      local same = fields[index] == field
      local raw = read[index]
      if same then
        raw = new
      end
      field = fields[index]
      local kind, meter, amount, param = hold[take], hold[take + 1] * METER_SIZE, hold[take + 4], hold[take + 8]
      -- The parts of the meter's totals that fall on this take. A raise adds a take that starts at `base`; the last one
      -- carries what is used beyond the reserved total. -1: it follows no report.
      local before, total, uncollected = -1, -1, 0
      if meter > 0 then
        local base = hold[take + 6]
        before, total = hold[meter + REPORTED] - base, after[hold[take + 1]] - base
        if before < 0 then
          before = 0
        end
        if total < 0 then
          total = 0
        end
        if hold[take + 7] ~= 1 then
          before, total = math.min(before, amount), math.min(total, amount)
        end
      end
      -- The kinds that keep state, by their number in domain/limits/base.py.
      if kind == 3 then
        new = window_finish(raw, ending, amount, created + hold[take + 5], param, before, total, now)
      elseif kind == 4 then
        new = raw
        local has_queue = param ~= 0 and #param >= OWNER_AT - 1
        if was == QUEUED and has_queue then
          leaves = field -- it has taken no place yet
        elseif live and ending ~= REPORT and raw and amount > 0 then
          -- Places are freed when the hold ends, however it ends.
          if param ~= 0 then
            new = pools_kept().finish(raw, was == ACTIVE and ending, amount, created + hold[take + 5], param, now)
            if has_queue then
              freed = freed or {}
              freed[field] = new or false
            end
          else
            local left = slots_taken(raw) - amount
            new = left > 0 and string.format('%.0f', left)
          end
        end
      elseif kind == 5 then
        local moved, falls
        new, uncollected, moved, falls = balance_finish(raw, ending, live, amount, param, before, total, field)
        if moved then
          entries = entries or {}
          entries[#entries + 1] = { now, ending, id, field, raw, new }
        end
        for number = 1, falls and #falls or 0 do
          crossings = crossings or {}
          crossings[#crossings + 1] = falls[number]
        end
      elseif kind == 6 then
        local crossed
        new, crossed = quota_finish(raw, ending, live, amount, created + hold[take + 5], param, before, total, now)
        for number = 1, crossed and #crossed or 0 do
          crossings = crossings or {}
          crossings[#crossings + 1] = { field, unpack(crossed[number]) }
        end
      elseif kind == 7 then
        local more = 0
        if ending == SETTLE and amount > 0 then -- no units are no allocation, and keep no name
          known, stands = known or allocations_kept().read(name), stands or {}
          more = known[field] and 0 or amount -- who settles under a name that stands, adds nothing to it
          stands[field] = (stands[field] or 0) + amount
        end
        new = counts_kept().finish(raw, live and ending ~= REPORT, amount, more)
      else
        error('CORRUPT a take of a hold')
      end
      if uncollected > 0 then
        hold[meter + UNCOLLECTED] = hold[meter + UNCOLLECTED] + uncollected
      end
      if not new then
        gone = gone or {}
        gone[#gone + 1] = field
      else
        if not same then
          size = size + 2
        end
        set[size - 1], set[size] = field, new
      end
      take = take + TAKE_SIZE
    end
    writes[groups + 1], writes[groups + 2], writes[groups + 3], writes[groups + 4] = place, set, size, gone
    groups = groups + 4
  end
  if not due_known then
    local due = redis.call('HGET', KEYS[1], 'due')
    if due and tonumber(due) <= now then
      return nil
    end
  end

  for meter = 1, hold[METERS] do
    -- What was never reported stays so until a final settle: it may yet be charged as reserved.
    if ending == SETTLE or after[meter] > 0 then
      hold[meter * METER_SIZE + REPORTED] = after[meter]
    end
  end
  local tombstone_ms = hold[8]
  hold[1] = state
  if state == EXPIRED then
    local kept = at
    for from = at + 1, last, TAKE_SIZE do
      if hold[from + 1] > 0 or hold[from] == 7 then -- a late settle still changes it
        for offset = 0, TAKE_SIZE - 1 do
          hold[kept + 1 + offset] = hold[from + offset]
        end
        kept = kept + TAKE_SIZE
      end
    end
    last, hold[at] = kept, (kept - at) / TAKE_SIZE
  elseif state ~= ACTIVE then
    hold[3], hold[4], hold[7], hold[8], hold[at] = 0, 0, 0, 0, 0
    last = at
  end
  local record = cmsgpack.pack(unpack(hold, 1, last))

  local queues, promoted, more
  if leaves then
    redis.call('ZCARD', tenant_key('q:' .. leaves))
  end
  if not reaps and (freed or leaves) then
    queues = queues_kept()
    promoted, more = queues.look(now, freed or {}, leaves and id or nil)
  end
  if stands then
    for field, units in pairs(stands) do
      known[field] = known[field] or units
    end
  end
  if crossings then
    notes_kept().look()
  end
  if entries then
    redis.call('XLEN', tenant_key('ledger'))
  end
  if live and state ~= ACTIVE then
    redis.call('ZREM', KEYS[3], id)
  end
  if leaves then
    redis.call('ZREM', tenant_key('q:' .. leaves), id)
  end
  for group = 1, groups, 4 do
    -- A window cell whose key has left is not brought back: it would have no TTL.
    if writes[group + 2] > 0 then
      redis.call('HSET', writes[group], unpack(writes[group + 1], 1, writes[group + 2]))
    end
    if writes[group + 3] then
      redis.call('HDEL', writes[group], unpack(writes[group + 3]))
    end
  end
  if state == ACTIVE or not live then
    redis.call('SET', key, record, 'KEEPTTL')
  else
    redis.call('SET', key, record, 'PX', string.format('%.0f', tombstone_ms))
  end
  if stands then
    allocations_kept().write(name, known)
  end
  if crossings then
    notes_kept().write(crossings, now)
  end
  if entries then
    write_ledger(entries)
  end
  if promoted then
    queues.write(promoted)
  end
  return record, more or 0
end

-- The reported totals as they stand, by meter number; nothing reported counts as 0.
local function reported(hold)
  local totals = {}
  for meter = 1, hold[METERS] do
    totals[meter] = math.max(hold[meter * METER_SIZE + REPORTED], 0)
  end
  return totals
end

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

-- The param of a take that grew from `amount` by `more`: the old draws, then the new ones (hold_layout.lua).
local function params_joined(param, amount, new, more)
  if type(param) ~= 'string' and type(new) ~= 'string' then
    return param
  end
  local function values_of(packed)
    return type(packed) == 'string' and { cmsgpack.unpack(packed) } or { packed }
  end
  local joined, added = values_of(param), values_of(new)
  if not (joined[2] or added[2]) then
    return param -- marks, and no draws
  end
  local function explain(draws, units)
    for at = 4, #draws, 3 do
      units = units - draws[at]
    end
    -- What no draw explains was there before grants were kept apart, or has been charged beyond the hold.
    if units > 0 then
      local n = #draws
      draws[n + 1], draws[n + 2], draws[n + 3] = MONTHLY, NEVER, units
    end
  end
  explain(joined, amount)
  explain(added, more)
  for at = 2, #added do
    joined[#joined + 1] = added[at]
  end
  return cmsgpack.pack(unpack(joined))
end
-- A balance's param (hold_layout.lua) with what was drawn behind it: a sequence, whether the param was one or a number.
local function drawn(param, draws)
  return (type(param) == 'string' and param or cmsgpack.pack(param)) .. cmsgpack.pack(unpack(draws))
end

local plan = { cmsgpack.unpack(ARGV[1]) }
local asked = { cmsgpack.unpack(ARGV[2]) }
local id, raises, gated = asked[1], asked[2] == 1, asked[3] == 1
local now = clock(plan[1])

local head = redis.call('HMGET', KEYS[1], 'v', 'due')
if head[2] and tonumber(head[2]) <= now then
  return { 4, now }
end
local raw = redis.call('GET', KEYS[5])
if not raw then
  return { 6, now }
end
local hold, takes_at = hold_read(raw)
if hold[1] ~= ACTIVE then
  return { 5, now, raw }
end
local listed = redis.call('ZSCORE', KEYS[3], id)
if hold[2] + hold[3] <= now then
  if not listed then -- so that a reap finds it: a lease that has ended is never renewed
    redis.call('ZADD', KEYS[3], string.format('%.0f', hold[2] + hold[3]), id)
  end
  return { 4, now }
end
local start = ARGV[3] and { cmsgpack.unpack(ARGV[3]) }
if start and hold[9] ~= start[1] then
  return { 9, now }
end
if raises and not is_current(plan, head[1], now) then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end

local numbers = {}
for meter = 1, hold[METERS] do
  numbers[hold[meter * METER_SIZE + NAME]] = meter
end

local at = 5
local totals, reports = reported(hold), false
for _ = 1, asked[4] do
  local meter = numbers[asked[at]]
  if not meter then
    return { 7, now, asked[at] }
  end
  if asked[at + 1] >= totals[meter] then
    totals[meter] = asked[at + 1]
    hold[meter * METER_SIZE + REPORTED] = math.max(hold[meter * METER_SIZE + REPORTED], 0)
    reports = true
  end
  at = at + 2
end
local raised = {}
local higher = false
for _ = 1, asked[at] do
  local meter = numbers[asked[at + 1]]
  if not meter then
    return { 7, now, asked[at + 1] }
  end
  raised[meter] = asked[at + 2]
  higher = higher or asked[at + 2] > hold[meter * METER_SIZE + RESERVED]
  at = at + 2
end
local WINDOW_KIND, BALANCE_KIND, QUOTA_KIND = 3, 5, 6

-- Drops the takes of windows that have left, but for the newest part of each.
local function drop_gone(into)
  local kept = takes_at
  for take = takes_at + 1, #into, TAKE_SIZE do
    local left = into[take] == WINDOW_KIND
      and into[take + 7] ~= 1
      and into[2] + into[take + 5] <= now - math.abs(into[take + 8])
    if not left then
      for offset = 0, TAKE_SIZE - 1 do
        into[kept + 1 + offset] = into[take + offset]
      end
      kept = kept + TAKE_SIZE
    end
  end
  for index = #into, kept + 1, -1 do
    into[index] = nil
  end
  into[takes_at] = (kept - takes_at) / TAKE_SIZE
end

-- Adds a raise's takes to the hold. A balance's are one with what the hold has, and so are a quota's of one cycle; a
-- window's are parts of their own, since they were made at another time, and the newest part carries what is used
-- beyond the reserved total. Takes of one cell stay together, and those of one scope.
local function join_takes(into, takes)
  for new = 1, #takes, TAKE_SIZE do
    local joined, behind = false, #into + 1
    for index = takes_at + 1, #into, TAKE_SIZE do
      if into[index + 2] == takes[new + 2] then
        local same = into[index + 3] == takes[new + 3]
        local same_cycle = takes[new] == QUOTA_KIND and into[index + 7] == 1 and into[index + 8] == takes[new + 8]
        if same and takes[new] == BALANCE_KIND then
          into[index + 8] = params_joined(into[index + 8], into[index + 4], takes[new + 8], takes[new + 4])
        end
        if same and (takes[new] == BALANCE_KIND or same_cycle) then
          into[index + 4] = into[index + 4] + takes[new + 4]
          joined = true
        elseif same then
          into[index + 7] = 0
        end
        behind = index + TAKE_SIZE
        if same and into[behind + 3] ~= takes[new + 3] then
          break
        end
      end
    end
    if not joined then
      for index = #into, behind, -1 do
        into[index + TAKE_SIZE] = into[index]
      end
      for offset = 0, TAKE_SIZE - 1 do
        into[behind + offset] = takes[new + offset]
      end
      into[takes_at] = into[takes_at] + 1
    end
  end
end

-- Each raise of a window adds a take, and a record must stay small enough to unpack.
local MOST_TAKES = 400

-- Where a raise starts: at the reserved total, or at what was reported beyond it, which has been charged already.
local function floor_of(meter)
  return math.max(hold[meter * METER_SIZE + RESERVED], hold[meter * METER_SIZE + REPORTED])
end

local first_field = SCOPES + 3 + plan[SCOPES] * SCOPE_SIZE
local first_check = first_field + plan[CHECKS]
local first_memo = at + 1
local wanted = {}
for check = first_check, #plan, CHECK_SIZE do
  wanted[check] = plan[check + 2] or 0
end

-- Only the difference must fit and is taken; what follows no report was taken once and is not taken again.
local function check_difference()
  local memo = first_memo
  for check = first_check, #plan, CHECK_SIZE do
    local meter = asked[memo]
    local more = meter > 0 and math.max(wanted[check] - floor_of(meter), 0) or 0
    plan[check + 1], plan[check + 2] = more, more > 0 and more
    memo = memo + 3
  end
  plan.draws = nil
  return check_all(plan, read_standing(plan), now)
end

local figures, rows, sets, renews, blocked, moves, _ = '', {}, {}, {}, false, nil, nil
if higher then
  -- Before a report is written, too: it finds what is corrupt.
  figures, rows, sets, renews, blocked, _, moves = check_difference()
  drop_gone(hold)
  if hold[takes_at] + first_check - first_field > MOST_TAKES then
    return { 8, now, raw }
  end
end
if start then
  redis.call('ZSCORE', KEYS[4], start[4])
end
if reports then
  finish(KEYS[5], id, hold, takes_at, REPORT, ACTIVE, totals, now)
  if higher then
    figures, rows, sets, renews, blocked, _, moves = check_difference()
  end
end

local taken = {}
local fits = not (higher and (blocked or gated))
if higher and fits then
  -- What was reported beyond a take has been charged to it; the raise goes on from there.
  for take = takes_at + 1, #hold, TAKE_SIZE do
    if hold[take + 1] > 0 and hold[take + 7] == 1 then
      hold[take + 4] = math.max(hold[take + 4], hold[hold[take + 1] * METER_SIZE + REPORTED] - hold[take + 6])
    end
  end
  local takes, check, memo = {}, first_check, first_memo
  for number = 1, first_check - first_field do
    local n, meter, field = #takes, asked[memo], plan[first_field + number - 1]
    if plan[check + 2] and rows[number * ROW] == 0 then
      takes[n + 1], takes[n + 2], takes[n + 3], takes[n + 4] = plan[check], meter, asked[memo + 1], field
      takes[n + 5], takes[n + 6], takes[n + 7] = plan[check + 2], now - hold[2], floor_of(meter)
      local draws = plan.draws and plan.draws[field]
      takes[n + 8], takes[n + 9] = 1, draws and drawn(asked[memo + 2], draws) or asked[memo + 2]
    end
    taken[number] = plan[check + 2] or 0
    check, memo = check + CHECK_SIZE, memo + 3
  end
  join_takes(hold, takes)
  for meter, total in pairs(raised) do
    hold[meter * METER_SIZE + RESERVED] = math.max(total, hold[meter * METER_SIZE + RESERVED])
  end
end
if start then
  hold[9], hold[4] = start[2], start[3] - hold[2]
  hold[3] = math.min(now - hold[2] + hold[7], hold[4])
else
  hold[3] = math.max(hold[3], math.min(now - hold[2] + hold[7], hold[4]))
end
local record = cmsgpack.pack(unpack(hold))

local due = string.format('%.0f', hold[2] + hold[3])
redis.call('ZADD', KEYS[3], due, id)
if (start or not listed) and not (head[2] and tonumber(head[2]) <= tonumber(due)) then
  redis.call('HSET', KEYS[1], 'due', due)
  if start then
    redis.call('ZADD', KEYS[4], due, start[4])
  end
end
redis.call('SET', KEYS[5], record)
if fits then
  write_all(plan, sets, renews, moves)
else
  write_all(plan, nil, nil, moves)
end
return { fits and 1 or 0, now, record, figures, #taken > 0 and cmsgpack.pack(unpack(taken)) or '' }
