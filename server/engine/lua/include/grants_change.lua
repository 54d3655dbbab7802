--@include ledger
--@include balance_change
--@include balance_marks
--@include due_ids
--@include notes

--[[ What time does to balances: grants lapse, and a refill tops up to its ceiling when a cycle begins.

hg:{p/t}:grants has, per field of a balance with either: ledgered (1 or 0), refill_ms (the next one; NEVER without),
cycle_ms (start of the cycle that was refilled last), then the plans refilled in that cycle. The sorted set of open
holds by lease end has GRANTS_DUE, an id that no hold has, at the instant of the next change, so that a tenant is
found overdue when it has come. Each instant is a step of its own, in order with the ends of leases: who comes late
finds what who came in time would have found. ]]
local LAPSE, REFILL = 5, 6

local function schedule_read(packed)
  local schedule = { cmsgpack.unpack(packed) }
  for index = 1, 3 do
    local value = schedule[index]
    if type(value) ~= 'number' or value < 0 or value > NEVER or value % 1 ~= 0 then
      error('CORRUPT the schedule of a balance')
    end
  end
  return schedule
end

-- When a balance changes next by itself.
local function next_change(schedule, grants)
  local at_ms = schedule and schedule[2] or NEVER
  for at = FIRST_GRANT, grants and #grants or 0, GRANT_SIZE do
    at_ms = math.min(at_ms, grants[at + 1])
  end
  return at_ms
end

-- Raises what is available and held to the ceiling; returns whether that took anything.
local function top_up(b, available, ceiling)
  local units = math.min(math.max(ceiling - math.max(available, 0) - b[4], 0), NEVER - b[1])
  b[1], b[7] = b[1] + units, b[7] - math.min(b[7], units)
  return units > 0
end

-- Drops the grants that are over; returns the units that were left of them.
local function lapse(grants, at_ms)
  local left = 0
  for at = #grants - GRANT_SIZE + 1, FIRST_GRANT, -GRANT_SIZE do
    if grants[at + 1] <= at_ms then
      left = left + grants[at + 2]
      for _ = 1, GRANT_SIZE do
        table.remove(grants, at)
      end
    end
  end
  return left
end

--[[ One step: everything that changes at the next instant, if that has come. `terms` are for refills at `terms_ms`:
per field ledgered, plan, ceiling, cycle_ms, next_ms; `marks` are those of balances then, per field. Returns nil when
done, or the instant for which terms are wanted. Reads all, then writes. ]]
local function change_grants(now, terms_ms, terms, marks)
  local grants_key = tenant_key('grants')
  local stored = redis.call('HGETALL', grants_key)
  local fields, schedules = {}, {}
  for index = 1, #stored, 2 do
    fields[#fields + 1] = stored[index]
    schedules[stored[index]] = schedule_read(stored[index + 1])
  end
  table.sort(fields)
  redis.call('ZSCORE', KEYS[3], GRANTS_DUE)
  if #fields == 0 then
    redis.call('ZREM', KEYS[3], GRANTS_DUE)
    return nil
  end
  local read, raws, at_ms = redis.call('HMGET', KEYS[1], unpack(fields)), {}, NEVER
  for index, field in ipairs(fields) do
    raws[field] = read[index]
    local _, _, grants = balance_open(raws[field])
    at_ms = math.min(at_ms, next_change(schedules[field], grants))
  end
  redis.call('XLEN', tenant_key('ledger'))

  local entries, cells, kept, gone, due, falls = {}, {}, {}, {}, NEVER, nil
  for _, field in ipairs(fields) do
    local schedule = schedules[field]
    local b, available, grants = balance_open(raws[field])
    local function moved(ledgered, cause)
      local raw = balance_packed(b, grants)
      if ledgered == 1 then
        entries[#entries + 1] = { at_ms, cause, '', field, raws[field], raw }
      end
      raws[field] = raw
    end
    if at_ms <= now then
      local had = left_of(b)
      local left = grants and lapse(grants, at_ms) or 0
      if left > 0 and terms_ms ~= at_ms then
        return at_ms
      end
      b[5], available = b[5] + left, available - left
      if left > 0 then
        moved(grants[2], LAPSE)
      end
      if schedule[2] <= at_ms then
        local term = terms[field]
        if terms_ms ~= at_ms then
          return at_ms
        end
        if not term then
          schedule[2] = NEVER -- the policy refills it no more
        elseif term[4] > schedule[3] then
          if top_up(b, available, term[3]) then
            moved(term[1], REFILL)
          end
          schedule = { term[1], term[5], term[4], term[2] }
        else
          schedule[2] = term[5]
        end
      end
      cells[#cells + 1], cells[#cells + 2] = field, balance_packed(b, grants)
      falls = marks_reached(falls, field, marks[field] or {}, 1, had, left_of(b))
    end
    local change_ms = next_change(schedule, grants)
    due = math.min(due, change_ms)
    if change_ms < NEVER then
      kept[#kept + 1], kept[#kept + 2] = field, cmsgpack.pack(unpack(schedule))
    else
      gone[#gone + 1] = field
    end
  end
  if falls then
    notes_kept().look()
  end

  if #cells > 0 then
    redis.call('HSET', KEYS[1], unpack(cells))
  end
  if #kept > 0 then
    redis.call('HSET', grants_key, unpack(kept))
  end
  if #gone > 0 then
    redis.call('HDEL', grants_key, unpack(gone))
  end
  if due < NEVER then
    redis.call('ZADD', KEYS[3], string.format('%.0f', due), GRANTS_DUE)
  else
    redis.call('ZREM', KEYS[3], GRANTS_DUE)
  end
  write_ledger(entries)
  if falls then
    notes_kept().write(falls, at_ms)
  end
  return nil
end
