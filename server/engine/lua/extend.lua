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
--@include clock
--@include finish
--@include reported
--@include checks
--@include draws_joined
--@include drawn

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
