#!lua
--[[ Changes what is used of a quota in its cycle, or a balance. An operator's word.

Keys   1 cells (hash)  2 account (string)  3 unused  4 index of tenants by due (sorted set)  5 unused
       6 ids of writes already made (hash)
Args   1 msgpack sequence: now_ms (0: ask the store), write id, fingerprint, field, units, account version, then of a
         quota: 1, to these units (1) or by them (0), limit, terms, cycle with thresholds (quota.lua); or of a balance:
         0, cause (domain/ledger.py), ledgered (1 or 0), debt bound, marks as a msgpack sequence
       2 the act (acts.lua)
Reply  {1, now, before, after} changed; {2, now, before, after} it was before, under this id; {3, now, account} the
       account or the cycle is another one; {4, now} something is overdue: call reap, then ask again; {5, now} it would
       pass 2^53 - 1; {6, now} this id was used before for something else.
Writes cells, ids, ledger, notes, acts.
Example {1, 1773144000000, 60, 10} ]]
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
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end

local args = { cmsgpack.unpack(ARGV[1]) }
local now, write_id, fingerprint, field, units, version, is_quota = clock(args[1]), unpack(args, 2, 7)
local read = redis.call('HMGET', KEYS[1], 'v', 'due', field)
local raw = read[3]
if read[2] and (tonumber(read[2]) or error('CORRUPT the earliest lease end')) <= now then
  return { 4, now }
end
local known = redis.call('HGET', KEYS[6], write_id)
if known then
  if string.sub(known, 1, #fingerprint) ~= fingerprint then
    return { 6, now }
  end
  return { 2, now, cmsgpack.unpack(string.sub(known, #fingerprint + 1)) }
end

local sets, cap, terms, cycle = unpack(args, 8, 11)
local start, stop = 0, now + 1
if is_quota == 1 then
  start, stop = struct.unpack(QUOTA_TERMS, terms)
end
if account_version(read[1]) ~= version or now < start or now >= stop then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end
local new, before, after, crossings
local entries = {}
if is_quota == 1 then
  local taken, held = quota_check(raw, now, 0, 0, cap, terms)
  new = select(4, quota_check(raw, now, 0, 0, cap, terms))
  before = taken - held
  after = math.max(sets == 1 and units or before + units, 0)
  if after + held > QUOTA_MOST then
    return { 5, now }
  end
  local crossed
  new, crossed =
    quota_finish(new, SETTLE, false, 0, now, cycle, math.max(before - after, 0), math.max(after - before, 0), now)
  for number = 1, crossed and #crossed or 0 do
    crossings = crossings or {}
    crossings[number] = { field, unpack(crossed[number]) }
  end
else
  local cause, ledgered, bound, marks = unpack(args, 8, 11)
  local b, available, grants = balance_open(raw)
  local had = left_of(b)
  before = available - b[7]
  if units >= 0 then
    b[1], b[7] = b[1] + units, b[7] - math.min(b[7], units) -- what comes in pays back what is owed
    after = before + units
  else
    after = before - take_back(b, available, grants, grants and MONTHLY .. grants[1], -units, bound)
  end
  if math.max(b[1], b[2]) >= 9007199254740992 then
    return { 5, now }
  end
  new = balance_packed(b, grants)
  crossings = marks_reached(nil, field, { cmsgpack.unpack(marks) }, 1, had, left_of(b))
  if ledgered == 1 and after ~= before then
    entries[1] = { now, cause, write_id, field, raw, new }
    redis.call('XLEN', tenant_key('ledger'))
  end
end
if crossings then
  notes_kept().look()
end
local acted_ms = last_act()

redis.call('HSET', KEYS[1], field, new)
redis.call('HSET', KEYS[6], write_id, fingerprint .. cmsgpack.pack(before, after))
write_ledger(entries)
if crossings then
  notes_kept().write(crossings, now)
end
write_act(ARGV[2], acted_ms, now, string.format('%.0f', before), string.format('%.0f', after))
return { 1, now, before, after }
