#!lua flags=allow-oom
--[[ Gives back everything that no report has charged and ends the hold.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 index of tenants by due (sorted set)  5 hold (string)
Args   1 msgpack sequence: now_ms (0: ask the store), hold id, and, for an open call that gives its place in a queue up,
         the call as in queues.lua: then a place that another call has taken over is left alone
       2 when an operator's act is to be told: the act (acts.lua)
Reply  {1, now, hold, more} applied, more: not 0 when reap has turns to make; {2, now, hold} it had ended before,
       nothing to apply; {3, now} no such hold; {4, now} holds are overdue: call reap, then ask again.
Writes due, cells and windows of the hold's takes, hold, acts. A second release finds
       the hold ended and frees nothing of its neighbours'.
Example {1, 1773144000000, <3,...>} ]]
--@include clock
--@include finish
--@include reported
--@include acts

local args = { cmsgpack.unpack(ARGV[1]) }
local id = args[2]
local now = clock(args[1])

local raw = redis.call('GET', KEYS[5])
if not raw then
  return { 3, now }
end
local hold, at = hold_read(raw)
local waits = hold[1] == QUEUED or hold[1] == PROMOTED
if not waits and (hold[1] ~= ACTIVE or args[3]) then
  return { 2, now, raw }
end
if args[3] and string.sub(hold[queues_kept().take(hold, at) + 8], OWNER_AT) ~= args[3] then
  return { 2, now, raw }
end
-- Where it is missing from the due set, no reap ends it.
local due = (waits or hold[2] + hold[3] <= now) and redis.call('ZSCORE', KEYS[3], id)
if due and (not waits or tonumber(due) <= now) then
  return { 4, now }
end
local acted_ms, kept = ARGV[2] and last_act(), {}
for meter = METER_SIZE, ARGV[2] and hold[METERS] * METER_SIZE or 0, METER_SIZE do
  local left = math.max(hold[meter + RESERVED] - math.max(hold[meter + REPORTED], 0), 0)
  kept[#kept + 1] = string.format('%s=%.0f', hold[meter + NAME], left)
end
table.sort(kept)
local record, more = finish(KEYS[5], id, hold, at, RELEASE, waits and LEFT or RELEASED, reported(hold), now)
if not record then
  return { 4, now }
end
if acted_ms then
  write_act(ARGV[2], acted_ms, now, table.concat(kept, ' '), '')
end
return { 1, now, record, more }
