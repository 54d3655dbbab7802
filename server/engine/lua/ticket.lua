#!lua
--[[ Renews a place in a queue, or claims the place that its turn has brought: what a repeat of its request does.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)
       5 hold (string)  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)
       2 msgpack sequence: hold id, the pool's part of the hold as the caller keeps it (queues.lua; '': as it was)
Reply  {1, now, hold, rows, position, lasts_ms, free} it waits, its ticket for so long; free: 1 when its turn may come
       with new terms of the queues; {2, now, hold, rows} it has its place; {0, now, hold} it waits no more;
       {7, now, hold} the plan's pool has no queue (any more), nothing is renewed;
       {3, now, account} planned for another version or time; {4, now} holds are overdue: call reap, then ask again;
       {6, now} no such hold. rows: as in reserve.lua.
Writes due, hold; for a ticket that ends before all else does, also cells.due and the index.
Example {1, 1773144000000, <7,...>, <3,5,-2>, 3, 30000, 0} ]]
--@include clock
--@include checks
--@include queues

local plan = { cmsgpack.unpack(ARGV[1]) }
local id, kept = cmsgpack.unpack(ARGV[2])
local now = clock(plan[1])

local standing = read_standing(plan)
if standing[2] and tonumber(standing[2]) <= now then
  return { 4, now }
end
local raw = redis.call('GET', KEYS[5])
if not raw then
  return { 6, now }
end
local hold, at = hold_read(raw)
if hold[1] ~= QUEUED and hold[1] ~= PROMOTED then
  return { 0, now, raw }
end
if not is_current(plan, standing[1], now) then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end
local figures = check_all(plan, standing, now)
local take = queues_kept().take(hold, at)
redis.call('ZSCORE', KEYS[3], id)

if hold[1] == PROMOTED then
  local started = hold[take + 5]
  hold[1], hold[3] = ACTIVE, math.min(started + hold[7], hold[4])
  local record = cmsgpack.pack(unpack(hold))
  redis.call('ZADD', KEYS[3], 'XX', string.format('%.0f', hold[2] + hold[3]), id)
  redis.call('SET', KEYS[5], record)
  return { 2, now, record, figures }
end

-- Its position: all who came before it to the queues that share its pool's places.
local field, joined, arrival = hold[take + 3], 0, redis.call('ZSCORE', tenant_key('q:' .. hold[take + 3]), id)
local first_field = SCOPES + 3 + plan[SCOPES] * SCOPE_SIZE
local position, own = 1, nil
for check = 1, plan[STANDING] do
  local param = plan[first_field + plan[CHECKS] + (check - 1) * CHECK_SIZE + 4]
  if plan[first_field + check - 1] == field and type(param) == 'string' and #param > DRAIN_PARAM then
    own, joined = first_field + check - 1, string.byte(param, #param)
  end
end
if not arrival then
  error('CORRUPT a hold that waits in no queue')
elseif not own then
  return { 7, now, raw }
end
for other = 0, joined do
  local queue = tenant_key('q:' .. plan[own - other])
  position = position + redis.call('ZCOUNT', queue, '-inf', '(' .. arrival)
end
if kept == '' then
  kept = hold[take + 8]
end
-- A call that takes over from a client who only looked by now and then has a shorter ticket.
local due = now + struct.unpack('>I4', kept, TICKET_AT)
local first_due = not standing[2] or due < tonumber(standing[2])
if first_due then
  redis.call('ZSCORE', KEYS[4], MEMBER)
end
local ends = string.format('%.0f', due)
redis.call('ZADD', KEYS[3], 'XX', ends, id)
if first_due then
  redis.call('ZADD', KEYS[4], ends, MEMBER)
  redis.call('HSET', KEYS[1], 'due', ends)
end
if hold[take + 8] ~= kept then
  hold[take + 8] = kept
  raw = cmsgpack.pack(unpack(hold))
  redis.call('SET', KEYS[5], raw)
end
return { 1, now, raw, figures, position, (struct.unpack('>I4', kept, TICKET_AT)), plan.free and 1 or 0 }
