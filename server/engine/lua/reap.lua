#!lua flags=allow-oom
--[[ Gives back what a tenant's overdue holds kept. The sweeper calls it, and the engine whenever another script answers
that holds are overdue: none decides or reads while they are still counted.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 index of tenants by due (sorted set)
Args   1 msgpack sequence: now_ms (0: ask the store), holds at most, tenant's member in the index
Reply  {1, now, expired} more are overdue; {0, now, expired} none is.
Writes per overdue hold, each read and then written whole: due, cells and windows of its takes, hold; at the end
       cells.due and the index, whose type is seen before the first write.
Example {0, 1773144000000, 3} ]]
--@include clock
--@include finish
--@include reported

local args = { cmsgpack.unpack(ARGV[1]) }
local now, most, member = clock(args[1]), args[2], args[3]

redis.call('HGET', KEYS[1], 'due')
redis.call('ZSCORE', KEYS[4], member)
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now), 'LIMIT', 0, most)
for _, id in ipairs(ids) do
  local key = tenant_key('h:' .. id)
  local raw = redis.call('GET', key)
  local hold, at
  if raw then
    hold, at = hold_read(raw)
  end
  if hold and hold[1] == ACTIVE then
    finish(key, id, hold, at, EXPIRE, EXPIRED, reported(hold), now)
  else
    redis.call('ZREM', KEYS[3], id)
  end
end
local next_due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
if next_due then
  redis.call('HSET', KEYS[1], 'due', next_due)
  redis.call('ZADD', KEYS[4], next_due, member)
  return { tonumber(next_due) <= now and 1 or 0, now, #ids }
end
redis.call('HDEL', KEYS[1], 'due')
redis.call('ZREM', KEYS[4], member)
return { 0, now, #ids }
