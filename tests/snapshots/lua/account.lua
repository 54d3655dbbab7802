#!lua
--[[ Changes an account record by compare-and-set, adds units to balances, books use of quotas, or several of these, in
one step.

Keys   1 cells (hash)  2 account (string)  3 ids of writes already made (hash)
Args   1 msgpack sequence: replaces the record (1 or 0), expected version, record, write id ('': the version alone
         guards), fingerprint, number of grants, per grant: field, units; then now_ms (0: ask the store), number of
         uses, per use: field, limit, terms, cycle (quota.lua), units
Reply  {1, account} written; {2, account} this id was written before, with equal content; {3, account} the version is
       another one; {4, account} this id was written before with other content; {5, account} a balance would pass
       2^53 - 1.
Writes cells, account, ids. Ids stay as long as the account.
Example {1, '{"plan":"free",...}'} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
--[[ balance: prepaid units. Twin of server/domain/limits/balance.py. A cell is seven running totals of 7 bytes:
granted, reversed, charged, held, expired, uncollected, debt.
granted - reversed + debt = available + held + charged + expired. Subtracted in an order that keeps every
intermediate result exact. ]]
local BALANCE, BALANCE_SIZE = '>I7I7I7I7I7I7I7', 49

-- {granted, reversed, charged, held, expired, uncollected, debt}, available
local function balance_open(raw)
  if not raw then
    return { 0, 0, 0, 0, 0, 0, 0 }, 0
  end
  if #raw ~= BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local b = { struct.unpack(BALANCE, raw) }
  return b, b[1] - b[2] - b[5] - b[3] + b[7] - b[4]
end

local function balance_packed(b)
  if math.min(unpack(b)) < 0 or math.max(unpack(b)) >= 9007199254740992 then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  return struct.pack(BALANCE, b[1], b[2], b[3], b[4], b[5], b[6], b[7])
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

--[[ New raw value, and the thresholds that were crossed: start, percent, limit, used of each.
`param` has the start of the cycle that the take belongs to, and the thresholds, a byte each. What was delivered is
charged in full: up to the limit, up to the overage, and above both to the grace if the hold was made before that
ended. ]]
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
      -- Reached at that part of the limit, rounded up; split so that no product passes 2^53.
      local percent, odd = string.byte(param, index), limit % 100
      local reached_at = (limit - odd) / 100 * percent + math.ceil(odd * percent / 100)
      if percent > noted and limit < QUOTA_MOST and new >= reached_at then
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
  return string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE), crossed
end
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end

local args = { cmsgpack.unpack(ARGV[1]) }
local replaces, expected, record, write_id, fingerprint = args[1] == 1, args[2], args[3], args[4], args[5]
local grants = args[6]
local USE_SIZE = 5
local uses_at = 8 + grants * 2
local uses = args[uses_at]

local stored = redis.call('GET', KEYS[2]) or ''
local known = redis.call('HGET', KEYS[3], write_id)
if known and write_id ~= '' then
  return { known == fingerprint and 2 or 4, stored }
end
local fields = { 'v' }
for grant = 1, grants do
  fields[grant + 1] = args[5 + grant * 2]
end
for use = 1, uses do
  fields[grants + 1 + use] = args[uses_at + 1 + (use - 1) * USE_SIZE]
end
local read = redis.call('HMGET', KEYS[1], unpack(fields))
if replaces and account_version(read[1]) ~= expected then
  return { 3, stored }
end

local set = {}
for grant = 1, grants do
  local b = balance_open(read[grant + 1])
  local units = args[6 + grant * 2]
  b[1], b[7] = b[1] + units, b[7] - math.min(b[7], units) -- what comes in pays back what is owed
  if b[1] >= 9007199254740992 then
    return { 5, stored }
  end
  set[#set + 1] = fields[grant + 1]
  set[#set + 1] = balance_packed(b)
end
local now = uses > 0 and clock(args[uses_at - 1])
for use = 1, uses do
  local field, limit, terms, cycle, units = unpack(args, uses_at + 1 + (use - 1) * USE_SIZE, uses_at + use * USE_SIZE)
  local _, _, _, cell = quota_check(read[grants + 1 + use], now, 0, 0, limit, terms)
  set[#set + 1] = field
  set[#set + 1] = quota_finish(cell, SETTLE, false, 0, now, cycle, 0, units, now)
end
if replaces then
  set[#set + 1] = 'v'
  set[#set + 1] = string.format('%.0f', expected + 1)
  redis.call('SET', KEYS[2], record)
  stored = record
end
if #set > 0 then
  redis.call('HSET', KEYS[1], unpack(set))
end
if write_id ~= '' then
  redis.call('HSET', KEYS[3], write_id, fingerprint)
end
return { 1, stored }
