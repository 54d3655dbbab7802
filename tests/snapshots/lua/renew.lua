#!lua flags=allow-oom
--[[ Renews the places that the open calls of one process have in a tenant's queues.

Keys   1 cells (hash)  2 unused  3 due (sorted set)  4 index of tenants by due (sorted set)  5 unused
Args   1 msgpack sequence: now_ms (0: ask the store), how long a ticket is kept in ms, tenant's member in the index, the
         number of cells with queues, these cells, then the holds' ids
Reply  {1, now, next due, ids} ids: those whose turn has come, or who have left; {4, now} holds are overdue: call reap,
       then ask again.
Writes due, cells.due, index.
Example {1, 1773144000000, 1773144005000, {'r-7'}} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- A key that a script finds in its own data: what is behind the tenant's tag. KEYS[1] is hg:{policy/tenant}:cells; all
-- else of the tenant starts with the same tag. Mirrors server/engine/keys.py, and nothing else in Lua builds a key.
local function tenant_key(rest)
  return string.sub(KEYS[1], 1, -6) .. rest
end

-- What is published when there are new notes, with the tenant's name; and, with the name of a process behind it, when
-- the turn of one of its open calls has come, with the tenant's name and the hold's id.
local NOTED_CHANNEL, TURN_CHANNEL = 'hg:noted', 'hg:turn:'

-- The index of the slot's tenants with notes for the webhook, beside that by due, and the tenant's name in both.
local function noted_key()
  return string.sub(KEYS[4], 1, -4) .. 'noted'
end

local function member_name()
  return string.sub(KEYS[1], 5, -8)
end
-- Why a take is changed; the numbers are those of domain/limits/base.py.
local REPORT, SETTLE, RELEASE, EXPIRE = 1, 2, 3, 4

--[[ slots: a pool of concurrent places. Twin of server/domain/limits/slots.py. A cell is a decimal count; an empty pool
has no cell. Whose place it is stands in the holds; overdue ones are given back before anybody looks.

Where jobs have a usual length, behind the count stand ';', the average length of recent jobs in ms (6 bytes), how many
that is an average of (1), and when the jobs in the pool began (6 each, at most 64). ]]
local POOL, POOL_SIZE, START_SIZE, STARTS_KEPT = '>I6I1', 7, 6, 64
local JOBS_AVERAGED, JOBS_ENOUGH = 16, 8

local function queue_key(field)
  return tenant_key('q:' .. field)
end

local function slots_taken(raw)
  local taken = tonumber(raw) or tonumber(string.match(raw, '^(%d+);'))
  if not taken or taken < 0 or taken >= 9007199254740992 or taken % 1 ~= 0 then
    error('CORRUPT a slots cell')
  end
  return taken
end

-- Places taken, average length of jobs, of how many, and the beginnings.
local function pool_read(raw)
  if not raw then
    return 0, 0, 0, ''
  end
  local taken, at = slots_taken(raw), string.find(raw, ';', 1, true)
  if not at then
    return taken, 0, 0, ''
  end
  local starts = #raw - at - POOL_SIZE
  if starts < 0 or starts % START_SIZE ~= 0 then
    error('CORRUPT a slots cell of ' .. #raw .. ' bytes')
  end
  local mean, jobs = struct.unpack(POOL, raw, at + 1)
  return taken, mean, jobs, string.sub(raw, at + 1 + POOL_SIZE)
end

local function pool_packed(taken, mean, jobs, starts)
  return string.format('%.0f', taken) .. ';' .. struct.pack(POOL, mean, jobs) .. starts
end

-- The value with one place more, taken now.
local function pool_taken(raw, now)
  local taken, mean, jobs, starts = pool_read(raw)
  if #starts < STARTS_KEPT * START_SIZE then
    starts = starts .. struct.pack('>I6', now)
  end
  return pool_packed(taken + 1, mean, jobs, starts)
end

-- The value without the places of a hold that began at `start`; nil where nothing is left to remember. `param` begins
-- with whether jobs are measured.
local function pool_finish(raw, ending, amount, start, param, now)
  local taken, mean, jobs, starts = pool_read(raw)
  local packed = struct.pack('>I6', start)
  for at = 1, #starts, START_SIZE do
    if string.sub(starts, at, at + START_SIZE - 1) == packed then
      starts = string.sub(starts, 1, at - 1) .. string.sub(starts, at + START_SIZE)
      break
    end
  end
  if string.byte(param) == 1 and (ending == SETTLE or ending == RELEASE) then
    jobs = math.min(jobs + 1, JOBS_AVERAGED)
    mean = mean + math.floor((math.max(now - start, 0) - mean) / jobs)
  end
  taken = math.max(taken - amount, 0)
  return (taken > 0 or jobs > 0) and pool_packed(taken, mean, jobs, starts) or nil
end

local args = { cmsgpack.unpack(ARGV[1]) }
local now, member, first = clock(args[1]), args[3], 5 + args[4]
local due = redis.call('HGET', KEYS[1], 'due')
if due and tonumber(due) <= now then
  return { 4, now }
end
local waits = {}
for cell = 5, first - 1 do
  local arrivals = redis.call('ZMSCORE', queue_key(args[cell]), unpack(args, first))
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
