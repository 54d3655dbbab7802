#!lua flags=allow-oom
--[[ Renews the places that the open calls of one process have in a tenant's queues.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 index of tenants by due (sorted set)  5 unused
Args   1 msgpack sequence: now_ms (0: ask the store), how long a ticket is kept in ms, tenant's member in the index, the
         number of cells with queues, these cells, then the holds' ids
Reply  {1, now, next due, ids} ids: those whose turn has come, or who have left; {4, now} holds are overdue: call reap,
       then ask again.
Writes due, cells.due, index.
Example {1, 1773144000000, 1773144005000, {'r-7'}} ]]
--@include clock
--@include keys

local args = { cmsgpack.unpack(ARGV[1]) }
local now, member, first = clock(args[1]), args[3], 5 + args[4]
local due = redis.call('HGET', KEYS[1], 'due')
if due and tonumber(due) <= now then
  return { 4, now }
end
local waits = {}
for cell = 5, first - 1 do
  local arrivals = redis.call('ZMSCORE', tenant_key('q:' .. args[cell]), unpack(args, first))
  for index = 1, #arrivals do
    waits[index] = waits[index] or arrivals[index]
  end
end
redis.call('ZCARD', KEYS[3])
redis.call('ZSCORE', KEYS[4], member)
local ends, renewed, gone = string.format('%.0f', now + args[2]), {}, {}
for index = first, #args do
  if waits[index - first + 1] then
    renewed[#renewed + 1] = ends
    renewed[#renewed + 1] = args[index]
  else
    gone[#gone + 1] = args[index]
  end
end
if #renewed > 0 then
  redis.call('ZADD', KEYS[3], 'XX', unpack(renewed))
end
local next_due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
if next_due then
  redis.call('HSET', KEYS[1], 'due', next_due)
  redis.call('ZADD', KEYS[4], next_due, member)
end
return { 1, now, tonumber(next_due) or 0, gone }
