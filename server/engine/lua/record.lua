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
--@include clock
--@include version
--@include quota
--@include quota_finish
--@include notes
--@include due_ids

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
