#!lua
--[[ Decides one request: takes from every limit or from none.

Keys   1 cells (hash)  2 account (string)  3 due (sorted set)  4 index of tenants by due (sorted set)
       5 hold (string)  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)
       2 msgpack sequence: gated (1: a gate refuses), hold id ('': remember nothing), lease_ms (0: no lease),
         longest_ms, replay_ms, tenant's member in the index, the record from its fingerprint to its meters (hold.lua),
         number of takes, the takes
       3 when the plan has shadow checks, a msgpack sequence: per shadow check that takes: its number, its take
Reply  {0, now, rows} refused; {1, now, rows, lease end} granted; {2, now, hold} the id is known;
       {3, now, account} planned for another version or time; {4, now} holds are overdue: call reap, then ask again;
       {5, now} too many cells. rows: msgpack array, 5 per check.
Writes on a grant alone: due and index, hold, cells, windows. ZADD NX comes first, as only it can still find a wrong
       type; SET NX is the look at the id. On a refusal only windows that block and moved back with the clock.
Example {1, 1773144000000, <10,1,0,60000,0>, 1773144120000} ]]
--@include clock
--@include ints
--@include hold
--@include checks
--@include draws

local plan = { cmsgpack.unpack(ARGV[1]) }
local gated, id, lease_ms, longest_ms, replay_ms, member, content, count, takes = cmsgpack.unpack(ARGV[2])
local now = clock(plan[1])

local standing = read_standing(plan)
local earliest = standing[2] and (tonumber(standing[2]) or error('CORRUPT the earliest lease end'))
if earliest and earliest <= now then
  return { 4, now }
end

if not is_current(plan, standing[1], now) then
  local known = id ~= '' and redis.call('GET', KEYS[5])
  if known then
    return { 2, now, known }
  end
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end

local rows, sets, renews, blocked, opens, moves = check_all(plan, standing, now)
if gated == 1 or blocked then
  local known = id ~= '' and redis.call('GET', KEYS[5])
  if known then
    return { 2, now, known }
  end
  write_moves(moves)
  return { 0, now, packed_rows(rows) }
end
local heads = (standing[1] and 1 or 0) + (earliest and 1 or 0)
if opens and redis.call('HLEN', KEYS[1]) - heads >= plan[5] then
  local known = id ~= '' and redis.call('GET', KEYS[5])
  if known then
    return { 2, now, known }
  end
  return { 5, now }
end

count_taken(plan, rows)
local figures = packed_rows(rows)
if id == '' then
  write_all(plan, sets, renews, moves)
  return { 1, now, figures, 0 }
end

-- A shadow check that does not fit took nothing, so the hold has nothing of it to give back.
if ARGV[3] then
  local shadow = { cmsgpack.unpack(ARGV[3]) }
  for index = 1, #shadow, 2 do
    if rows[shadow[index] * ROW] == 0 then
      count, takes = count + 1, takes .. shadow[index + 1]
    end
  end
end

if DRAWS then
  takes = takes_with_draws(takes)
end

if lease_ms == 0 then
  local done = cmsgpack.pack(DONE, now, 0, now + longest_ms, figures) .. content .. cmsgpack.pack(count) .. takes
  if not redis.call('SET', KEYS[5], done, 'NX', 'PX', int(replay_ms)) then
    return { 2, now, redis.call('GET', KEYS[5]) }
  end
  write_all(plan, sets, renews, moves)
  return { 1, now, figures, 0 }
end

local lease_end = now + lease_ms
local due = int(lease_end)
local first_due = not earliest or lease_end < earliest
if first_due then
  redis.call('ZSCORE', KEYS[4], member)
end
local active = cmsgpack.pack(ACTIVE, now, lease_end, now + longest_ms, figures)
  .. content .. cmsgpack.pack(count) .. takes
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
return { 1, now, figures, lease_end }
