#!lua flags=allow-oom
--[[ Charges what was delivered; when final, gives the rest back and ends the hold.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 unused  5 hold (string)
Args   1 msgpack sequence: now_ms (0: ask the store), hold id, final (1 or 0),
         form (0 nothing said, 1 totals, 2 fraction), then for form 1: number of meters, per meter: name, total;
         for form 2: delivered, reserved
Reply  {1, now, hold} applied; {2, now, hold} nothing to apply: a repeat, or not above the last report;
       {3, now} no such hold; {4, now} holds are overdue: call reap, then ask again; {5, now, hold} does not fit its
       state; {6, now, hold} a final total below an earlier report; {7, now, meter} the hold has no such meter.
Writes due, cells and windows of the hold's takes, hold.
Example {1, 1773144000000, <2,...>} ]]
--@include clock
--@include ints
--@include finish

local args = { cmsgpack.unpack(ARGV[1]) }
local id, final, form = args[2], args[3] == 1, args[4]
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
local state = hold[1]
if state == DONE then
  return { 2, now, raw }
end
if state == RELEASED then
  return { 5, now, raw }
end

-- A delivered share, rounded down, yet at least 1 when anything was delivered and anything held. Split so that no
-- product passes 2^53.
local function fraction_of(amount, delivered, parts)
  local rest = amount % parts
  local part = (amount - rest) / parts * delivered + math.floor(rest * delivered / parts)
  if part == 0 and delivered > 0 and amount > 0 then
    return 1
  end
  return part
end

local named = {}
if form == 1 then
  local numbers = {}
  for meter = 1, hold[METERS] do
    numbers[hold[meter_at(meter)]] = meter
  end
  for index = 1, args[5] do
    local name = args[4 + index * 2]
    if not numbers[name] then
      return { 7, now, name }
    end
    named[numbers[name]] = args[5 + index * 2]
  end
elseif form == 2 then
  for meter = 1, hold[METERS] do
    named[meter] = fraction_of(hold[meter_at(meter) + 1], args[5], args[6])
  end
end

local ended = state == SETTLED or state == SETTLED_LATE
local totals = reported(hold)
local rises, falls = false, false
for meter = 1, hold[METERS] do
  local last = hold[meter_at(meter) + 2]
  local total = named[meter]
  if total == nil then
    total = (final and last < 0) and hold[meter_at(meter) + 1] or totals[meter]
  elseif total < totals[meter] then
    falls = true
    total = totals[meter]
  end
  if total > totals[meter] or (last < 0 and named[meter]) then
    rises = true
  end
  totals[meter] = total
end
if ended then
  return { (rises or (falls and final)) and 5 or 2, now, raw }
end
if final and falls then
  return { 6, now, raw }
end
if not final and not rises then
  return { 2, now, raw }
end

for meter in pairs(named) do
  hold[meter_at(meter) + 2] = math.max(hold[meter_at(meter) + 2], 0)
end
if not final then
  finish(id, hold, REPORT, state, totals, now)
else
  finish(id, hold, SETTLE, state == ACTIVE and SETTLED or SETTLED_LATE, totals, now)
end
return { 1, now, hold_packed(hold) }
