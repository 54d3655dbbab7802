--@include endings

--[[ slots: a pool of concurrent places. Twin of server/domain/limits/slots.py. A cell is a decimal count; an empty pool
has no cell. Whose place it is stands in the holds; overdue ones are given back before anybody looks.

Where jobs have a usual length, behind the count stand ';', the average length of recent jobs in ms (6 bytes), how many
that is an average of (1), and when the jobs in the pool began (6 each, at most 64). ]]
local POOL, POOL_SIZE, START_SIZE, STARTS_KEPT = '>I6I1', 7, 6, 64
local JOBS_AVERAGED, JOBS_ENOUGH = 16, 8

local function slots_taken(raw)
  local taken = tonumber(raw) or tonumber(string.match(raw, '^(%d+);'))
  if not taken or taken < 0 or taken >= 9007199254740992 or taken % 1 ~= 0 then
    error('CORRUPT a slots cell')
  end
  return taken
end

-- What there is to do with a cell of a pool whose jobs have a usual length, or that has a queue: read, packed, taken,
-- finish. Made when asked for: most pools are a count.
local function pools_kept()
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

  return { read = pool_read, packed = pool_packed, taken = pool_taken, finish = pool_finish }
end
