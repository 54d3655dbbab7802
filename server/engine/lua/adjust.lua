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
--@include clock
--@include acts
--@include balance_marks
--@include balance_return
--@include ledger
--@include notes
--@include quota
--@include quota_finish
--@include version

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
