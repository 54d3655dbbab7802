#!lua flags=allow-oom
--[[ Does what has become due: gives back what a tenant's overdue holds kept, lapses grants, makes refills. The sweeper
calls it, and the engine whenever another script answers that something is overdue: none decides or reads before.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)
Args   1 msgpack sequence: now_ms (0: ask the store), holds at most, tenant's member in the index, instant that refill
         terms are for (0: none given), account version that they are for, then per term: field, ledgered, plan,
         ceiling, cycle_ms, next_ms
       2 terms of the queues as hg:{p/t}:pools has them (queues.lua), '' for those that are there
       3 with terms of refills: a msgpack sequence, per balance that has marks: field, marks as a msgpack sequence
Reply  {1, now, expired} more is overdue; {0, now, expired} nothing is; {2, now, expired, at_ms, account} a refill or
       lapse was due at that instant: call again with its terms; {5, now, expired, account} the queues' terms are out of
       date: call again with new ones; {6, now, expired} time has changed an allowance with thresholds: look at these
       (record.lua), then call again.
Writes per overdue hold, each read and then written whole: due, cells and windows of its takes, hold, ledger, notes;
       for one instant of grants: cells, grants, due, ledger, notes (grants_change.lua); at the end cells.due and the
       index, whose type is seen before the first write; when nothing is overdue any more, the turns of those who wait
       (queues.lua).
Example {0, 1773144000000, 3} ]]
--@include clock
--@include finish
--@include reported
--@include grants_change
--@include version

local args = { cmsgpack.unpack(ARGV[1]) }
local now, most, member, terms_ms = clock(args[1]), args[2], args[3], args[4]
local terms = {}
for at = 6, #args, 6 do
  terms[args[at]] = { args[at + 1], args[at + 2], args[at + 3], args[at + 4], args[at + 5] }
end
local marks, marked = {}, { cmsgpack.unpack(ARGV[3]) }
for at = 1, #marked, 2 do
  marks[marked[at]] = { cmsgpack.unpack(marked[at + 1]) }
end

local version = account_version(redis.call('HMGET', KEYS[1], 'v', 'due')[1])
redis.call('ZSCORE', KEYS[4], member)
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now), 'LIMIT', 0, most)
local queues = queues_kept()
queues.look(now, {}) -- finds what is corrupt before anything is written
local expired = 0
for _, id in ipairs(ids) do
  if id == GRANTS_DUE then
    local wanted_ms = change_grants(now, version == args[5] and terms_ms or 0, terms, marks)
    if wanted_ms then
      return { 2, now, expired, wanted_ms, redis.call('GET', KEYS[2]) or '' }
    end
    break -- what comes next may lie before the next hold
  elseif id == LIMITS_DUE then
    return { 6, now, expired }
  end
  local key = tenant_key('h:' .. id)
  local raw = redis.call('GET', key)
  local hold, at
  if raw then
    hold, at = hold_read(raw)
  end
  if hold and hold[1] == ACTIVE then
    finish(key, id, hold, at, EXPIRE, EXPIRED, reported(hold), now, nil, true)
  elseif hold and (hold[1] == QUEUED or hold[1] == PROMOTED) then
    finish(key, id, hold, at, RELEASE, LEFT, reported(hold), now, nil, true)
  else
    redis.call('ZREM', KEYS[3], id)
  end
  expired = expired + 1
end
local next_due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
if next_due then
  redis.call('HSET', KEYS[1], 'due', next_due)
  redis.call('ZADD', KEYS[4], next_due, member)
  if tonumber(next_due) <= now then
    return { 1, now, expired }
  end
else
  redis.call('HDEL', KEYS[1], 'due')
  redis.call('ZREM', KEYS[4], member)
end

if ARGV[2] ~= '' and redis.call('EXISTS', tenant_key('pools')) == 1 then
  redis.call('SET', tenant_key('pools'), ARGV[2])
end
local promoted, more = queues.look(now, {})
if promoted then
  queues.write(promoted)
end
if more == 2 then
  return { 5, now, expired, redis.call('GET', KEYS[2]) or '' }
end
return { more, now, expired }
