--@include keys
--@include pool

local QUEUES = -2

-- The looks at pools that are more than a count: check, queued. Made when asked for.
local function pool_looks()
  local kept = pools_kept()

  -- As the other looks (checks.lua): places taken, 0, when the oldest job ends if it takes as long as is usual, and the
  -- new value. `param` has whether jobs are measured, and how long one takes otherwise.
  local function pool_check(raw, now, amount, take, cap, param)
    local taken, mean, jobs, starts = kept.read(raw)
    if amount > 0 and taken + amount > cap then
      local measured, typical = struct.unpack('>I1I6', param)
      if measured == 1 and jobs >= JOBS_ENOUGH then
        typical = mean
      end
      local oldest = now
      for at = 1, #starts, START_SIZE do
        oldest = math.min(oldest, (struct.unpack('>I6', starts, at)))
      end
      return taken, 0, math.max(oldest + typical - now, 1)
    end
    if not take then
      return taken, 0, 0
    end
    if #starts < STARTS_KEPT * START_SIZE then
      starts = starts .. struct.pack('>I6', now)
    end
    return taken, 0, 0, kept.packed(taken + take, mean, jobs, starts)
  end

  --[[ The same for a pool with a queue: `rows` before `row` has the places taken of the pools that share theirs with
  it, `field` is the place of its own cell among the plan's fields, with theirs in front. Returns the places taken of
  all, how many wait, what the wait is (QUEUES: there is a place in the queue), the new value, and whether somebody
  waits although a place is free. Nobody overtakes: with anyone waiting, a request waits too. ]]
  local function queued_check(plan, field, rows, row, raw, now, amount, take, cap, param)
    local taken, mean, jobs = kept.read(raw)
    local measured, typical, depth, joined = struct.unpack('>I1I6I7I1', param)
    local all, waiting = taken, redis.call('ZCARD', tenant_key('q:' .. plan[field]))
    for other = 1, joined do
      all = all + rows[row - other * 3 + 1]
      waiting = waiting + redis.call('ZCARD', tenant_key('q:' .. plan[field - other]))
    end
    if amount > 0 and (waiting > 0 or all + amount > cap) then
      if amount > cap then
        return all, waiting, -1
      elseif waiting < depth then
        return all, waiting, QUEUES, nil, all + amount <= cap
      end
      return all, waiting, math.max(measured == 1 and jobs >= JOBS_ENOUGH and mean or typical, 1)
    elseif not take then
      return all, waiting, 0
    end
    return all, waiting, 0, kept.taken(raw, now)
  end

  return { check = pool_check, queued = queued_check }
end
