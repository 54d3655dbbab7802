#!lua
--[[ Books samples of use in the cycles of quotas, each sample once; or looks whether thresholds are reached by now.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set), which names that
       of noted ones
Args   1 one msgpack array: now_ms (0: ask the store), account version, most standing cells, cells, pages, samples, and
       of a look when time changes an allowance next (NEVER: it does not).
       A cell: field, cap, terms, cycle and thresholds (quota.lua), 1 if its cycle is over. A page: what the key of its
       records has behind the tenant's tag, that of the records before ('': none), field, when the key may leave,
       highest sum of its numbers (0: any), 1 if what stands in it is never replaced. A sample: number of its page, key
       in the page, sequence, number, units that each of it is worth, the cells that it counts in
Reply  {1, now, outcomes} a letter per sample (domain/sampling.py); {3, now, account} the account is of another version;
       {5, now} too many cells.
Writes cells, records, notes; a look also due and index. A record is a msgpack sequence, per sample: key, sequence,
       number.
Example {1, 1773144000000, 'A'} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
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
-- What is due besides holds, which have no such ids: a change of grants, a change of an allowance with thresholds.
-- Mirrors server/engine/keys.py.
local GRANTS_DUE, LIMITS_DUE = '', '\1'

local MOST_ENTRIES, HEADS = 64, 2
local NEVER = 9007199254740991
local now, version, most, cells, pages, samples, again_ms = unpack(cmsgpack.unpack(ARGV[1]), 1, 7)
now = clock(now)

local fields = { 'v', 'due' }
for index = 1, #cells do
  fields[HEADS + index] = cells[index][1]
end
local read = redis.call('HMGET', KEYS[1], unpack(fields))
if account_version(read[1]) ~= version then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end

-- Units used and held in a cell's cycle now, and what the samples add to them.
local sums, added, is_touched = {}, {}, {}
for index = 1, #cells do
  local raw, start = read[HEADS + index], struct.unpack('>I6', cells[index][4])
  sums[index], added[index] = 0, 0
  if raw then
    local at, found = quota_place(raw, start)
    if found then
      local _, _, _, _, _, _, within, billed, graced, over, held = struct.unpack(QUOTA, raw, at)
      sums[index] = within + billed + graced + over + held
    end
  end
end

-- A page's entries by key, as they are or were before.
local wanted, stored = {}, {}
for index = 1, #pages do
  local page = pages[index]
  for place = 1, 2 do
    local key = page[place]
    if key ~= '' then
      wanted[key] = wanted[key] or {}
      table.insert(wanted[key], page[3])
    end
  end
end
for key, names in pairs(wanted) do
  local values = redis.call('HMGET', tenant_key('u:' .. key), unpack(names))
  for index = 1, #names do
    stored[key .. '/' .. names[index]] = values[index]
  end
end
local entries, is_changed = {}, {}
local function page_read(index)
  local page, values = pages[index], {}
  local raw = stored[page[1] .. '/' .. page[3]] or (page[2] ~= '' and stored[page[2] .. '/' .. page[3]])
  if raw then
    values = { cmsgpack.unpack(raw) }
    for at = 1, #values do
      if type(values[at]) ~= 'number' then
        error('CORRUPT a record of samples')
      end
    end
    if #values % 3 ~= 0 then
      error('CORRUPT a record of ' .. #values .. ' values')
    end
  end
  entries[index] = values
  return values
end

-- Where a key's entry is in a page, or will be; and what its numbers come to without it.
local function entry_of(values, key)
  local at, others = #values + 1, 0
  for index = 1, #values, 3 do
    if values[index] == key then
      at = index
    else
      others = others + values[index + 2]
    end
  end
  return at, others
end

local function fits(sample, units)
  for index = 6, #sample do
    local cell = sample[index]
    if sums[cell] + added[cell] + units > QUOTA_MOST then
      return false
    end
  end
  return true
end

local outcomes = {}
for index = 1, #samples do
  local sample = samples[index]
  local page, key, sequence, number, weight = unpack(sample, 1, 5)
  local bound, is_fixed = pages[page][5], pages[page][6] == 1
  local values = entries[page] or page_read(page)
  local at, others = entry_of(values, key)
  local known, before = values[at + 1], values[at + 2] or 0
  local units = (number - before) * weight
  local outcome = 'A'
  if known and known == sequence then
    outcome = number == before and 'R' or 'X'
  elseif known and is_fixed then
    outcome = 'X'
  elseif known and known > sequence then
    outcome = 'O'
  elseif bound > 0 and others + number > bound then
    outcome = 'L'
  elseif not known and #values >= MOST_ENTRIES * 3 then
    outcome = 'M'
  elseif not fits(sample, units) then
    outcome = 'S'
  else
    values[at], values[at + 1], values[at + 2] = key, sequence, number
    is_changed[page] = true
    for cell = 6, #sample do
      is_touched[sample[cell]] = true
      added[sample[cell]] = added[sample[cell]] + units
    end
  end
  outcomes[index] = outcome
end

local set, crossings, opened = {}, nil, 0
for index = 1, #cells do
  local field, cap, terms, param, over = unpack(cells[index], 1, 5)
  local raw = read[HEADS + index]
  local known = raw and select(2, quota_place(raw, (struct.unpack('>I6', param))))
  if is_touched[index] or (again_ms and known) then -- where nothing was used, a look finds nothing
    opened = opened + (raw and 0 or 1)
    if over == 0 or not known then
      raw = select(4, quota_check(raw, now, 0, 0, cap, terms))
    end
    local units = math.max(added[index], -sums[index])
    local new, crossed = quota_finish(raw, SETTLE, false, 0, now, param, math.max(-units, 0), math.max(units, 0), now)
    if new ~= read[HEADS + index] then
      set[#set + 1], set[#set + 2] = field, new
    end
    for number = 1, crossed and #crossed or 0 do
      crossings = crossings or {}
      crossings[#crossings + 1] = { field, unpack(crossed[number]) }
    end
  end
end
local heads = (read[1] and 1 or 0) + (read[2] and 1 or 0)
if opened > 0 and redis.call('HLEN', KEYS[1]) - heads + opened > most then
  return { 5, now }
end
if crossings then
  notes_kept().look()
end
if again_ms then
  redis.call('ZSCORE', KEYS[3], LIMITS_DUE)
  redis.call('ZSCORE', KEYS[4], MEMBER)
end

if again_ms and again_ms < NEVER then
  local due = string.format('%.0f', again_ms)
  redis.call('ZADD', KEYS[3], due, LIMITS_DUE)
  if again_ms < (tonumber(read[2]) or NEVER) then
    set[#set + 1], set[#set + 2] = 'due', due
    redis.call('ZADD', KEYS[4], due, MEMBER)
  end
elseif again_ms then
  redis.call('ZREM', KEYS[3], LIMITS_DUE)
end
if #set > 0 then
  redis.call('HSET', KEYS[1], unpack(set))
end
for index, page in ipairs(pages) do
  if is_changed[index] then
    local key = tenant_key('u:' .. page[1])
    redis.call('HSET', key, page[3], cmsgpack.pack(unpack(entries[index])))
    redis.call('PEXPIRE', key, string.format('%.0f', math.max(page[4] - now, 1)))
  end
end
if crossings then
  notes_kept().write(crossings, now)
end
return { 1, now, table.concat(outcomes) }
