--@include keys
--@include hold
--@include endings
--@include window_finish
--@include pool
--@include queues
--@include balance_finish
--@include quota_finish
--@include count_layout
--@include allocations
--@include notes
--@include ledger

--[[ One step in a hold's life: brings every cell that it took from to the new totals, then stores the record.
`at` is the index of the hold's number of takes; `after` has the reported total of each meter, by its number; `state` is
the hold's next state; `name` is the allocation that a final settle makes of the hold's counts. Reads and works out
everything before the first write; ZREM comes first because only it could still find a wrong type. Returns the new
record, or nil when holds are overdue, which must be reaped first; and whether turns are left for reap to make. Whose
turn it is when a place is freed is part of the step, unless it is one of reap's (`reaps`), which sees to the turns once
at its end.
Takes of one scope stand together in a record, and those of one cell too. ]]
local function finish(key, id, hold, at, ending, state, after, now, name, reaps)
  local was, created, last = hold[1], hold[2], #hold
  local live = was == ACTIVE or was == QUEUED or was == PROMOTED
  local due_known, crossings, entries, known, stands, freed, leaves = reaps, nil, nil, nil, nil, nil, nil
  local writes, groups, take = { false, false, false, false, false, false, false, false }, 0, at + 1
  while take <= last do
    local scope = hold[take + 2]
    local place, fields, count = KEYS[1], { 'due', false, false, false }, 1
    if scope ~= '' then
      place, count = tenant_key(scope), 0
    end
    local before_first = count
    for index = take, last, TAKE_SIZE do
      if hold[index + 2] ~= scope then
        break
      end
      count = count + 1
      fields[count] = hold[index + 3]
    end
    local read = redis.call('HMGET', place, unpack(fields, 1, count))
    if before_first == 1 then
      if not due_known and read[1] and tonumber(read[1]) <= now then
        return nil
      end
      due_known = true
    end
    local set, size, gone, field, new = { false, false, false, false }, 0, nil, nil, nil
    for index = before_first + 1, count do
      local same = fields[index] == field
      local raw = read[index]
      if same then
        raw = new
      end
      field = fields[index]
      local kind, meter, amount, param = hold[take], hold[take + 1] * METER_SIZE, hold[take + 4], hold[take + 8]
      -- The parts of the meter's totals that fall on this take. A raise adds a take that starts at `base`; the last one
      -- carries what is used beyond the reserved total. -1: it follows no report.
      local before, total, uncollected = -1, -1, 0
      if meter > 0 then
        local base = hold[take + 6]
        before, total = hold[meter + REPORTED] - base, after[hold[take + 1]] - base
        if before < 0 then
          before = 0
        end
        if total < 0 then
          total = 0
        end
        if hold[take + 7] ~= 1 then
          before, total = math.min(before, amount), math.min(total, amount)
        end
      end
      -- The kinds that keep state, by their number in domain/limits/base.py.
      if kind == 3 then
        new = window_finish(raw, ending, amount, created + hold[take + 5], param, before, total, now)
      elseif kind == 4 then
        new = raw
        local has_queue = param ~= 0 and #param >= OWNER_AT - 1
        if was == QUEUED and has_queue then
          leaves = field -- it has taken no place yet
        elseif live and ending ~= REPORT and raw and amount > 0 then
          -- Places are freed when the hold ends, however it ends.
          if param ~= 0 then
            new = pools_kept().finish(raw, was == ACTIVE and ending, amount, created + hold[take + 5], param, now)
            if has_queue then
              freed = freed or {}
              freed[field] = new or false
            end
          else
            local left = slots_taken(raw) - amount
            new = left > 0 and string.format('%.0f', left)
          end
        end
      elseif kind == 5 then
        local moved, falls
        new, uncollected, moved, falls = balance_finish(raw, ending, live, amount, param, before, total, field)
        if moved then
          entries = entries or {}
          entries[#entries + 1] = { now, ending, id, field, raw, new }
        end
        for number = 1, falls and #falls or 0 do
          crossings = crossings or {}
          crossings[#crossings + 1] = falls[number]
        end
      elseif kind == 6 then
        local crossed
        new, crossed = quota_finish(raw, ending, live, amount, created + hold[take + 5], param, before, total, now)
        for number = 1, crossed and #crossed or 0 do
          crossings = crossings or {}
          crossings[#crossings + 1] = { field, unpack(crossed[number]) }
        end
      elseif kind == 7 then
        local more = 0
        if ending == SETTLE and amount > 0 then -- no units are no allocation, and keep no name
          known, stands = known or allocations_kept().read(name), stands or {}
          more = known[field] and 0 or amount -- who settles under a name that stands, adds nothing to it
          stands[field] = (stands[field] or 0) + amount
        end
        new = counts_kept().finish(raw, live and ending ~= REPORT, amount, more)
      else
        error('CORRUPT a take of a hold')
      end
      if uncollected > 0 then
        hold[meter + UNCOLLECTED] = hold[meter + UNCOLLECTED] + uncollected
      end
      if not new then
        gone = gone or {}
        gone[#gone + 1] = field
      else
        if not same then
          size = size + 2
        end
        set[size - 1], set[size] = field, new
      end
      take = take + TAKE_SIZE
    end
    writes[groups + 1], writes[groups + 2], writes[groups + 3], writes[groups + 4] = place, set, size, gone
    groups = groups + 4
  end
  if not due_known then
    local due = redis.call('HGET', KEYS[1], 'due')
    if due and tonumber(due) <= now then
      return nil
    end
  end

  for meter = 1, hold[METERS] do
    -- What was never reported stays so until a final settle: it may yet be charged as reserved.
    if ending == SETTLE or after[meter] > 0 then
      hold[meter * METER_SIZE + REPORTED] = after[meter]
    end
  end
  local tombstone_ms = hold[8]
  hold[1] = state
  if state == EXPIRED then
    local kept = at
    for from = at + 1, last, TAKE_SIZE do
      if hold[from + 1] > 0 or hold[from] == 7 then -- a late settle still changes it
        for offset = 0, TAKE_SIZE - 1 do
          hold[kept + 1 + offset] = hold[from + offset]
        end
        kept = kept + TAKE_SIZE
      end
    end
    last, hold[at] = kept, (kept - at) / TAKE_SIZE
  elseif state ~= ACTIVE then
    hold[3], hold[4], hold[7], hold[8], hold[at] = 0, 0, 0, 0, 0
    last = at
  end
  local record = cmsgpack.pack(unpack(hold, 1, last))

  local queues, promoted, more
  if leaves then
    redis.call('ZCARD', tenant_key('q:' .. leaves))
  end
  if not reaps and (freed or leaves) then
    queues = queues_kept()
    promoted, more = queues.look(now, freed or {}, leaves and id or nil)
  end
  if stands then
    for field, units in pairs(stands) do
      known[field] = known[field] or units
    end
  end
  if crossings then
    notes_kept().look()
  end
  if entries then
    redis.call('XLEN', tenant_key('ledger'))
  end
  if live and state ~= ACTIVE then
    redis.call('ZREM', KEYS[3], id)
  end
  if leaves then
    redis.call('ZREM', tenant_key('q:' .. leaves), id)
  end
  for group = 1, groups, 4 do
    -- A window cell whose key has left is not brought back: it would have no TTL.
    if writes[group + 2] > 0 then
      redis.call('HSET', writes[group], unpack(writes[group + 1], 1, writes[group + 2]))
    end
    if writes[group + 3] then
      redis.call('HDEL', writes[group], unpack(writes[group + 3]))
    end
  end
  if state == ACTIVE or not live then
    redis.call('SET', key, record, 'KEEPTTL')
  else
    redis.call('SET', key, record, 'PX', string.format('%.0f', tombstone_ms))
  end
  if stands then
    allocations_kept().write(name, known)
  end
  if crossings then
    notes_kept().write(crossings, now)
  end
  if entries then
    write_ledger(entries)
  end
  if promoted then
    queues.write(promoted)
  end
  return record, more or 0
end
