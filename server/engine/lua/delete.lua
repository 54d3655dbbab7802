#!lua flags=allow-oom
--[[ A step of the deletion of a tenant: its beginning, a sweep, its end. An operator's word. From its beginning to its
end the account's version is GONE, for which nobody makes a plan, so that nothing new is taken; meanwhile the server
looks for the tenant's keys, and sweeps remove all but the cells. Nothing is swept without a beginning.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)  5 unused
Args   1 msgpack sequence: now_ms (0: ask the store), 0 to begin, 1 to sweep, 2 to end, then to begin: 1 to end open
         holds with it, 1 when something of the tenant was found beside what stands here, holds that ended before for it
       2 when it begins: the act (acts.lua); when it sweeps: a msgpack array of keys, behind the tenant's tag
Reply  {1, now, count} begun, and so many holds have ended, or swept, and so many keys, or over; {0, now} nothing
       stands under this name, or it has not begun; {2, now} it had begun before; {4, now} something is overdue: call
       reap, then ask again; {5, now, holds} so many holds are open: more than one call ends, or some where none may be.
Writes to begin: open holds, due, index, account, grants, pools, cells, acts; to sweep: those keys; to end: every key
       that has a name of its own, and the indexes.
Example {1, 1773144000000, 3} ]]
--@include clock
--@include acts
--@include due_ids
--@include version

local MOST_HOLDS, GONE = 500, -1
local args = { cmsgpack.unpack(ARGV[1]) }
local now, phase, forced, remains, ended = clock(args[1]), unpack(args, 2, 5)
local head = redis.call('HMGET', KEYS[1], 'v', 'due')
local gone = account_version(head[1]) == GONE
redis.call('ZSCORE', KEYS[4], MEMBER)
redis.call('ZCARD', NOTED_KEY)

if phase > 0 and not gone then
  return { 0, now }
elseif phase == 1 then
  local removed = 0
  for _, name in ipairs(cmsgpack.unpack(ARGV[2])) do
    removed = removed + redis.call('UNLINK', tenant_key(name))
  end
  return { 1, now, removed }
elseif phase == 2 then
  redis.call('ZREM', KEYS[4], MEMBER)
  redis.call('ZREM', NOTED_KEY, MEMBER)
  for _, name in ipairs({ 'acct', 'ids', 'grants', 'ledger', 'trimmed', 'due', 'alloc', 'note', 'told', 'pools' }) do
    redis.call('UNLINK', tenant_key(name))
  end
  redis.call('UNLINK', KEYS[1])
  return { 1, now, 0 }
end

if gone then
  return { 2, now }
end
if head[2] and (tonumber(head[2]) or error('CORRUPT the earliest lease end')) <= now then
  return { 4, now }
end
local stands = remains
for _, name in ipairs({ 'cells', 'acct', 'ids', 'grants', 'ledger', 'trimmed', 'due', 'alloc', 'note', 'told' }) do
  stands = stands + redis.call('EXISTS', tenant_key(name))
end
if stands == 0 then
  return { 0, now }
end
local ids, holds = redis.call('ZRANGE', KEYS[3], 0, MOST_HOLDS), {}
for _, id in ipairs(ids) do
  if id ~= GRANTS_DUE and id ~= LIMITS_DUE then
    holds[#holds + 1] = id
  end
end
if #ids > MOST_HOLDS or (#holds > 0 and forced ~= 1) then
  local besides = 0
  for _, id in ipairs({ GRANTS_DUE, LIMITS_DUE }) do
    besides = besides + (redis.call('ZSCORE', KEYS[3], id) and 1 or 0)
  end
  return { 5, now, redis.call('ZCARD', KEYS[3]) - besides }
end
local acted_ms = last_act()

redis.call('HSET', KEYS[1], 'v', string.format('%.0f', GONE))
redis.call('HDEL', KEYS[1], 'due')
redis.call('ZREM', KEYS[4], MEMBER)
for _, id in ipairs(holds) do
  redis.call('UNLINK', tenant_key('h:' .. id))
end
for _, name in ipairs({ 'acct', 'due', 'grants', 'pools' }) do
  redis.call('UNLINK', tenant_key(name))
end
write_act(ARGV[2], acted_ms, now, 'holds=' .. string.format('%.0f', #holds + ended), '')
return { 1, now, #holds }
