#!lua flags=allow-oom
--[[ Charges what was delivered; when final, gives the rest back and ends the hold.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 unused  5 hold (string)
Args   1 msgpack sequence: now_ms (0: ask the store), hold id, final (1 or 0),
         form (0 nothing said, 1 totals, 2 fraction), then for form 1: number of meters, per meter: name, total;
         for form 2: delivered, reserved
       2 when what the hold has of counts is to be an allocation with another name than the hold's: that name
Reply  {1, now, state, meters, created_ms, more} applied, meters as in a hold's record, more: not 0 when reap has turns
       to make; {2, now, hold} nothing to apply: a repeat, or not above the last report;
       {3, now} no such hold; {4, now} holds are overdue: call reap, then ask again; {5, now, hold} does not fit its
       state; {6, now, hold} a final total below an earlier report; {7, now, meter} the hold has no such meter.
Writes due, cells and windows of the hold's takes, hold; the allocation.
Example {1, 1773144000000, 2, <1,'credits',10,7,0>, 1773143999000} ]]
--@include clock
--@include finish

local args = { cmsgpack.unpack(ARGV[1]) }
local id, final, form = args[2], args[3] == 1, args[4]
local now = clock(args[1])

local raw = redis.call('GET', KEYS[5])
if not raw then
  return { 3, now }
end
local hold, at = hold_read(raw)
local state, meters = hold[1], hold[METERS]
if state == DONE then
  return { 2, now, raw }
end
if state == RELEASED or state == LEFT then
  return { 5, now, raw }
end
-- What is overdue may bring the turn of one that waits. Where a hold is missing from the due set, no reap ends it.
if state == QUEUED or state == PROMOTED then
  local due = redis.call('HGET', KEYS[1], 'due')
  return due and tonumber(due) <= now and { 4, now } or { 5, now, raw }
elseif state == ACTIVE and hold[2] + hold[3] <= now and redis.call('ZSCORE', KEYS[3], id) then
  return { 4, now }
end

local named = {}
if form == 1 then
  for index = 5, 4 + args[5] * 2, 2 do
    local name, number = args[index + 1], nil
    for meter = 1, meters do
      if hold[meter * METER_SIZE + NAME] == name then
        number = meter
      end
    end
    if not number then
      return { 7, now, name }
    end
    named[number] = args[index + 2]
  end
elseif form == 2 then
  -- A delivered share, rounded down, yet at least 1 when anything was delivered and anything held. Split so that no
  -- product passes 2^53.
  local delivered, parts = args[5], args[6]
  for meter = 1, meters do
    local amount = hold[meter * METER_SIZE + RESERVED]
    local rest = amount % parts
    local part = (amount - rest) / parts * delivered + math.floor(rest * delivered / parts)
    if part == 0 and delivered > 0 and amount > 0 then
      part = 1
    end
    named[meter] = part
  end
end

local totals = {}
local rises, falls = false, false
for meter = 1, meters do
  local last, total = hold[meter * METER_SIZE + REPORTED], named[meter]
  local before = math.max(last, 0)
  if total == nil then
    total = (final and last < 0) and hold[meter * METER_SIZE + RESERVED] or before
  elseif total < before then
    falls = true
    total = before
  end
  if total > before or (last < 0 and named[meter]) then
    rises = true
  end
  totals[meter] = total
end
if state == SETTLED or state == SETTLED_LATE then
  return { (rises or (falls and final)) and 5 or 2, now, raw }
end
if final and falls then
  return { 6, now, raw }
end
if not final and not rises then
  return { 2, now, raw }
end

for meter in pairs(named) do
  hold[meter * METER_SIZE + REPORTED] = math.max(hold[meter * METER_SIZE + REPORTED], 0)
end
local ending, next_state = REPORT, state
if final then
  ending, next_state = SETTLE, state == ACTIVE and SETTLED or SETTLED_LATE
end
local record, more = finish(KEYS[5], id, hold, at, ending, next_state, totals, now, ARGV[2] or id)
if not record then
  return { 4, now }
end
return { 1, now, next_state, cmsgpack.pack(unpack(hold, METERS, METERS + meters * METER_SIZE)), hold[2], more }
