#!lua flags=allow-oom
--[[ Gives back everything that no report has charged and ends the hold.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 unused  5 hold (string)
Args   1 msgpack sequence: now_ms (0: ask the store), hold id
Reply  {1, now, hold} applied; {2, now, hold} it had ended before, nothing to apply; {3, now} no such hold;
       {4, now} holds are overdue: call reap, then ask again.
Writes due, cells and windows of the hold's takes, hold. A second release finds
       the hold ended and frees nothing of its neighbours'.
Example {1, 1773144000000, <3,...>} ]]
--@include clock
--@include finish
--@include reported

local args = { cmsgpack.unpack(ARGV[1]) }
local id = args[2]
local now = clock(args[1])

local raw = redis.call('GET', KEYS[5])
if not raw then
  return { 3, now }
end
local hold, at = hold_read(raw)
if hold[1] ~= ACTIVE then
  return { 2, now, raw }
end
-- Where it is missing from the due set, no reap ends it.
if hold[2] + hold[3] <= now and redis.call('ZSCORE', KEYS[3], id) then
  return { 4, now }
end
local record = finish(KEYS[5], id, hold, at, RELEASE, RELEASED, reported(hold), now)
if not record then
  return { 4, now }
end
return { 1, now, record }
