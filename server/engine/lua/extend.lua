#!lua
--[[ Renews a hold's lease; may report usage; may raise amounts where the raise fits.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 unused
       5 hold (string)  6.. windows (hash), one per scope of the raise, in the plan's order
Args   1 plan (checks.lua); with no checks when nothing is raised. Amounts are the new totals
       2 msgpack sequence: hold id, raises (1 or 0), gated (1: a guard or gate refuses a raise), number of reports,
         per report: meter, total; number of raised totals, per total: meter, total; then per check: meter (by its
         number in the hold; 0: follows no report), scope, hold param
Reply  {1, now, hold, rows} renewed and raised, or no raise was asked for; {0, now, hold, rows} renewed, and the raise
       does not fit; {3, now, account} planned for another version or time; {4, now} holds are overdue: call
       reap, then ask again; {5, now, hold} not active; {6, now} no such hold; {7, now, meter} the hold has no such
       meter; {8, now, hold} raised more often than a record can hold.
Writes the report as a phase complete in itself; then due, hold, cells, windows.
Example {1, 1773144000000, <1,...>, <>} ]]
--@include clock
--@include ints
--@include finish
--@include checks
--@include draws_joined

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
local hold = hold_read(raw)
if hold[1] ~= ACTIVE then
  return { 5, now, raw }
end
if raises and not is_current(plan, head[1], now) then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end

local numbers = {}
for meter = 1, hold[METERS] do
  numbers[hold[meter_at(meter)]] = meter
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
    hold[meter_at(meter) + 2] = math.max(hold[meter_at(meter) + 2], 0)
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
  higher = higher or asked[at + 2] > hold[meter_at(meter) + 1]
  at = at + 2
end
local QUOTA_KIND = 6

-- Adds a raise's takes to the hold. A balance's are one with what the hold has, and so are a quota's of one cycle; a
-- window's are parts of their own, since they were made at another time, and the newest part carries what is used
-- beyond the reserved total.
local function join_takes(into, takes)
  local count = takes_at(into)
  local known = into[count]
  for new = 1, #takes, TAKE_SIZE do
    local joined = false
    for index = count + 1, count + known * TAKE_SIZE, TAKE_SIZE do
      if into[index + 2] == takes[new + 2] and into[index + 3] == takes[new + 3] then
        local same_cycle = takes[new] == QUOTA_KIND and into[index + 7] == 1 and into[index + 8] == takes[new + 8]
        if takes[new] == BALANCE_KIND then
          into[index + 8] = params_joined(into[index + 8], into[index + 4], takes[new + 8], takes[new + 4])
        end
        if takes[new] == BALANCE_KIND or same_cycle then
          into[index + 4] = into[index + 4] + takes[new + 4]
          joined = true
        else
          into[index + 7] = 0
        end
      end
    end
    if not joined then
      for offset = 0, TAKE_SIZE - 1 do
        into[#into + 1] = takes[new + offset]
      end
      into[count] = into[count] + 1
    end
  end
end

-- Each raise of a window adds a take, and a record must stay small enough to unpack.
local MOST_TAKES = 400

-- Where a raise starts: at the reserved total, or at what was reported beyond it, which has been charged already.
local function floor_of(meter)
  return math.max(hold[meter_at(meter) + 1], hold[meter_at(meter) + 2])
end

local FIRST_CHECK, FIRST_MEMO = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE, at + 1
local wanted = {}
for check = FIRST_CHECK, #plan, CHECK_SIZE do
  wanted[check] = plan[check + 3] or 0
end

-- Only the difference must fit and is taken; what follows no report was taken once and is not taken again.
local function check_difference()
  local memo = FIRST_MEMO
  for check = FIRST_CHECK, #plan, CHECK_SIZE do
    local meter = asked[memo]
    local more = meter > 0 and math.max(wanted[check] - floor_of(meter), 0) or 0
    plan[check + 2], plan[check + 3] = more, more > 0 and more
    memo = memo + 3
  end
  return check_all(plan, read_standing(plan), now)
end

local rows, sets, renews, blocked, moves, _ = {}, {}, {}, false, {}, nil
if higher then
  -- Before a report is written, too: it finds what is corrupt.
  rows, sets, renews, blocked, _, moves = check_difference()
  drop_takes(hold, function(take)
    return hold[take] ~= WINDOW or hold[take + 7] == 1 or hold[2] + hold[take + 5] > now - math.abs(hold[take + 8])
  end)
  if hold[takes_at(hold)] + #rows / ROW > MOST_TAKES then
    return { 8, now, raw }
  end
end
redis.call('ZSCORE', KEYS[3], id)
if reports then
  finish(id, hold, REPORT, ACTIVE, totals, now)
  if higher then
    rows, sets, renews, blocked, _, moves = check_difference()
  end
end

local fits = not (higher and (blocked or gated))
if higher and fits then
  -- What was reported beyond a take has been charged to it; the raise goes on from there.
  for take = takes_at(hold) + 1, #hold, TAKE_SIZE do
    if hold[take + 1] > 0 and hold[take + 7] == 1 then
      hold[take + 4] = math.max(hold[take + 4], hold[meter_at(hold[take + 1]) + 2] - hold[take + 6])
    end
  end
  local takes, check, memo = {}, FIRST_CHECK, FIRST_MEMO
  for row = ROW, #rows, ROW do
    local n, meter = #takes, asked[memo]
    if plan[check + 3] and rows[row] == 0 then
      takes[n + 1], takes[n + 2], takes[n + 3], takes[n + 4] = plan[check], meter, asked[memo + 1], plan[check + 1]
      takes[n + 5], takes[n + 6], takes[n + 7] = plan[check + 3], now - hold[2], floor_of(meter)
      takes[n + 8], takes[n + 9] = 1, param_with_draws(asked[memo + 2], plan[check + 1])
    end
    check, memo = check + CHECK_SIZE, memo + 3
  end
  count_taken(plan, rows)
  join_takes(hold, takes)
  for meter, total in pairs(raised) do
    hold[meter_at(meter) + 1] = math.max(total, hold[meter_at(meter) + 1])
  end
end
hold[3] = math.max(hold[3], math.min(now + hold[7], hold[4]))
local record, figures = hold_packed(hold), packed_rows(rows)

redis.call('ZADD', KEYS[3], 'XX', int(hold[3]), id)
redis.call('SET', KEYS[5], record)
if fits then
  write_all(plan, sets, renews, moves)
else
  write_moves(moves)
end
return { fits and 1 or 0, now, record, figures }
