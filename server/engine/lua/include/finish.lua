--@include keys
--@include hold
--@include window_finish
--@include slots_finish
--@include balance_finish
--@include quota_finish
--@include notes
--@include ledger

-- The kinds that keep state, by their number in domain/limits/base.py.
local FINISH = { [3] = window_finish, [4] = slots_finish, [5] = balance_finish, [6] = quota_finish }

-- Drops the takes that `keep`, given a take's index, does not want.
local function drop_takes(hold, keep)
  local at = takes_at(hold)
  local kept = 0
  for from = at + 1, at + hold[at] * TAKE_SIZE, TAKE_SIZE do
    if keep(from) then
      local to = at + 1 + kept * TAKE_SIZE
      for offset = 0, TAKE_SIZE - 1 do
        hold[to + offset] = hold[from + offset]
      end
      kept = kept + 1
    end
  end
  for index = #hold, at + 1 + kept * TAKE_SIZE, -1 do
    hold[index] = nil
  end
  hold[at] = kept
end

--[[ One step in a hold's life: brings every cell that it took from to the new totals, then stores the record.
`after` has the reported total of each meter, by its number; `state` is the hold's next state. Reads and works out
everything before the first write; ZREM comes first because only it could still find a wrong type. ]]
local function finish(id, hold, ending, state, after, now)
  local live = hold[1] == ACTIVE
  local at = takes_at(hold)
  local scopes, fields, values, notes, entries = {}, {}, {}, {}, {}
  for take = at + 1, at + hold[at] * TAKE_SIZE, TAKE_SIZE do
    local scope, field = hold[take + 2], hold[take + 3]
    if not values[scope] then
      scopes[#scopes + 1] = scope
      fields[scope], values[scope] = {}, {}
    end
    if values[scope][field] == nil then
      fields[scope][#fields[scope] + 1] = field
      values[scope][field] = false
    end
  end
  for _, scope in ipairs(scopes) do
    local read = redis.call('HMGET', cell_key(scope), unpack(fields[scope]))
    for index, field in ipairs(fields[scope]) do
      values[scope][field] = read[index]
    end
  end
  for take = at + 1, at + hold[at] * TAKE_SIZE, TAKE_SIZE do
    local kind, meter, scope, field = hold[take], hold[take + 1], hold[take + 2], hold[take + 3]
    local before, total = -1, -1
    if meter > 0 then
      before, total = math.max(hold[meter_at(meter) + 2], 0), after[meter]
    end
    local new, uncollected, moved, crossed = FINISH[kind](
      values[scope][field], ending, live, hold[take + 4], hold[2] + hold[take + 5],
      hold[take + 6], hold[take + 7], hold[take + 8], before, total, now
    )
    if moved then
      entries[#entries + 1] = ledger_entry(now, ending, id, field, values[scope][field], new)
    end
    values[scope][field] = new
    if crossed then
      crossing_notes(notes, field, crossed, now)
    end
    if uncollected > 0 then
      hold[meter_at(meter) + 3] = hold[meter_at(meter) + 3] + uncollected
    end
  end
  for meter, total in ipairs(after) do
    -- What was never reported stays so until a final settle: it may yet be charged as reserved.
    if ending == SETTLE or total > 0 then
      hold[meter_at(meter) + 2] = total
    end
  end
  hold[1] = state
  if state ~= ACTIVE then
    drop_takes(hold, function(take)
      return state == EXPIRED and hold[take + 1] > 0 -- a late settle still changes it
    end)
  end
  local record, tombstone_ms = hold_packed(hold), int(hold[8])
  if #entries > 0 then
    ledger_look()
  end
  local sets, gone = {}, {}
  for _, scope in ipairs(scopes) do
    sets[scope], gone[scope] = {}, {}
    for _, field in ipairs(fields[scope]) do
      local value = values[scope][field]
      if value then
        table.insert(sets[scope], field)
        table.insert(sets[scope], value)
      else
        table.insert(gone[scope], field)
      end
    end
  end

  see_notes(notes)
  if live and state ~= ACTIVE then
    redis.call('ZREM', KEYS[3], id)
  end
  for _, scope in ipairs(scopes) do
    -- A window cell whose key has left is not brought back: it would have no TTL.
    if #sets[scope] > 0 then
      redis.call('HSET', cell_key(scope), unpack(sets[scope]))
    end
    if #gone[scope] > 0 then
      redis.call('HDEL', cell_key(scope), unpack(gone[scope]))
    end
  end
  if state == ACTIVE or not live then
    redis.call('SET', hold_key(id), record, 'KEEPTTL')
  else
    redis.call('SET', hold_key(id), record, 'PX', tombstone_ms)
  end
  write_notes(notes)
  ledger_write(entries)
end

-- The reported totals as they stand, by meter number; nothing reported counts as 0.
local function reported(hold)
  local totals = {}
  for meter = 1, hold[METERS] do
    totals[meter] = math.max(hold[meter_at(meter) + 2], 0)
  end
  return totals
end
