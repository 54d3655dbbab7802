#!lua
--[[ Decides one request: takes from every limit or from none.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)
       5 hold (string)  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)
       2 msgpack sequence: gated (1: a gate refuses), hold id ('': remember nothing), lease_ms (0: no lease),
         longest_ms, replay_ms, tenant's member in the index, the record from its fingerprint on (hold_layout.lua)
       3 when the plan has shadow checks, a msgpack sequence: the record's takes, which end argument 2 otherwise: their
         number, the takes; then per shadow check that takes: its number, its take; '' without
       4 when a request without a place may wait, a msgpack sequence: how long its ticket is kept in ms, the cell of its
         pool, the terms of the queues (queues.lua), the cells of all pools with queues
Reply  {0, now, rows} refused; {1, now, rows} granted; {2, now, hold} the id is known;
       {3, now, account} planned for another version or time; {4, now} holds are overdue: call reap, then ask again;
       {5, now} too many cells; {6, now, rows, position, free} it waits in the queue; free: 1 when reap has turns to
       make. rows: msgpack sequence, 3 per check (checks.lua), from before anything is taken.
Writes on a grant alone: due and index, hold, cells, windows; of one that waits also its queue and pools. ZADD NX comes
       first, as only it can still find a wrong type; SET NX is the look at the id. On a refusal only windows that block
       and moved back with the clock.
Example {1, 1773144000000, <1,60000,0>} ]]
--@include clock
--@include hold_layout
--@include checks
--@include drawn

local plan = { cmsgpack.unpack(ARGV[1]) }
local gated, id, lease_ms, longest_ms, replay_ms, member, content = cmsgpack.unpack(ARGV[2])
local now = clock(plan[1])

local standing = read_standing(plan)
local earliest = standing[2] and (tonumber(standing[2]) or error('CORRUPT the earliest lease end'))
if earliest and earliest <= now then
  return { 4, now }
end

-- Why nothing is taken, by the reply's first number; nil: everything is.
local verdict, figures, rows, sets, renews, blocked, opens, moves
if not is_current(plan, standing[1], now) then
  verdict = 3
else
  figures, rows, sets, renews, blocked, opens, moves = check_all(plan, standing, now)
  if gated == 1 or blocked then
    verdict = 0
  elseif opens then
    local heads = (standing[1] and 1 or 0) + (earliest and 1 or 0)
    verdict = redis.call('HLEN', KEYS[1]) - heads >= plan[5] and 5 or nil
  end
end
if verdict then
  local known = id ~= '' and redis.call('GET', KEYS[5])
  if known then
    return { 2, now, known }
  elseif verdict == 3 then
    return { 3, now, redis.call('GET', KEYS[2]) or '' }
  elseif verdict == 5 then
    return { 5, now }
  end
  write_all(plan, nil, nil, moves)
  return { 0, now, figures }
end

if id == '' then
  write_all(plan, sets, renews, moves)
  return { 1, now, figures }
end

-- A shadow check that does not fit took nothing, so the hold has nothing of it to give back.
if ARGV[3] and ARGV[3] ~= '' then
  local shadow = { cmsgpack.unpack(ARGV[3]) }
  local count, takes = shadow[1], shadow[2]
  for index = 3, #shadow, 2 do
    if rows[shadow[index] * ROW] == 0 then
      count, takes = count + 1, takes .. shadow[index + 1]
    end
  end
  content = content .. cmsgpack.pack(count) .. takes
end

-- What was drawn from grants goes into the takes, so that it can go back there.
local BALANCE_KIND = 5
if plan.draws then
  local values = { cmsgpack.unpack(content) }
  local takes_at = METERS - 4 + values[METERS - 5] * METER_SIZE
  for take = takes_at + 1, #values, TAKE_SIZE do
    local draws = values[take] == BALANCE_KIND and values[take + 4] > 0 and plan.draws[values[take + 3]]
    if draws then
      values[take + 8] = drawn(values[take + 8], draws)
    end
  end
  content = cmsgpack.pack(unpack(values))
end

if lease_ms == 0 then
  local done = cmsgpack.pack(DONE, now, 0, longest_ms, figures) .. content
  if not redis.call('SET', KEYS[5], done, 'NX', 'PX', string.format('%.0f', replay_ms)) then
    return { 2, now, redis.call('GET', KEYS[5]) }
  end
  write_all(plan, sets, renews, moves)
  return { 1, now, figures }
end

-- A request that must wait takes everything but its place, and stands behind all who came before it to any queue.
local state, pool, terms, arrival = ACTIVE, nil, nil, 0
local lease_end, lease_in = now + lease_ms, lease_ms
if plan.queued then
  local asked = { cmsgpack.unpack(ARGV[4]) }
  pool, terms = asked[2], asked[3]
  state, lease_end, lease_in = QUEUED, now + asked[1], 0
  for index = 4, #asked do
    local last = redis.call('ZRANGE', tenant_key('q:' .. asked[index]), -1, -1, 'WITHSCORES')
    arrival = math.max(arrival, (tonumber(last[2]) or 0) + 1)
  end
end
local due = string.format('%.0f', lease_end)
local first_due = not earliest or lease_end < earliest
if first_due then
  redis.call('ZSCORE', KEYS[4], member)
end
local active = cmsgpack.pack(state, now, lease_in, longest_ms, figures) .. content
if redis.call('ZADD', KEYS[3], 'NX', due, id) == 0 then
  return { 2, now, redis.call('GET', KEYS[5]) }
end
if not redis.call('SET', KEYS[5], active, 'NX') then
  redis.call('ZREM', KEYS[3], id)
  return { 2, now, redis.call('GET', KEYS[5]) }
end
if first_due then
  redis.call('ZADD', KEYS[4], due, member)
  redis.call('HSET', KEYS[1], 'due', due)
end
write_all(plan, sets, renews, moves)
if plan.queued then
  redis.call('ZADD', tenant_key('q:' .. pool), string.format('%.0f', arrival), id)
  redis.call('SET', tenant_key('pools'), terms)
  return { 6, now, figures, plan.queued + 1, plan.free and 1 or 0 }
end
return { 1, now, figures }
