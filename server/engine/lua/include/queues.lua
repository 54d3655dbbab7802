--@include keys
--@include hold
--@include pool

--[[ Queues in front of pools. hg:{p/t}:q:<cell> has the ids of those who wait for a pool's places, by order of arrival
over all queues of the tenant. While anyone waits, hg:{p/t}:pools says whose turn is next (wire_queues.py): the account
version that it holds for, valid from, valid until, number of groups, then per group: places, number of cells, cells.
Pools that share places are one group, and the first who came to any of them is next.

A hold that waits has in its take of the pool, behind whether jobs are measured, for how long its ticket is kept (4
bytes, ms) and the open call that waits with it (the process, a dot, the call; empty for none). ]]
local TICKET_AT, OWNER_AT, MOST_TURNS = 2, 6, 16

-- What there is to do with queues: take, look, write. Made when asked for: few holds have to do with any.
local function queues_kept()
  local pools = pools_kept()

  -- The take of the pool that a hold waits for: its index.
  local function queued_take(hold, takes_at)
    for take = takes_at + 1, #hold, TAKE_SIZE do
      if hold[take] == 4 and hold[take + 8] ~= 0 and #hold[take + 8] >= OWNER_AT - 1 then
        return take
      end
    end
    error('CORRUPT a hold that waits for no pool')
  end

  -- What one turn writes: the hold gets its place, until it is claimed. Whatever the clock has done, that never begins
  -- before the request did.
  local function turn_of(id, field, now)
    local key = tenant_key('h:' .. id)
    local raw = redis.call('GET', key)
    if not raw then
      return { id, field }
    end
    local hold, at = hold_read(raw)
    local take = queued_take(hold, at)
    local param, since = hold[take + 8], math.max(now - hold[2], 0)
    local lease_in = since + struct.unpack('>I4', param, TICKET_AT)
    hold[1], hold[3], hold[4], hold[take + 5] = PROMOTED, lease_in, hold[4] + since, since
    local record, began, owner = cmsgpack.pack(unpack(hold)), hold[2] + since, string.sub(param, OWNER_AT)
    return { id, field, key, record, hold[2] + lease_in, owner, began }
  end

  --[[ Whose turn it is, reading everything and writing nothing. `changed` has cells as they are about to be (false:
  gone), `leaving` is an id that is about to leave its queue. Returns what promote_write wants (nil: nobody's turn), and
  whether reap must go on with it: 1 for more turns than one call makes, 2 for terms that are out of date. ]]
  local function promote_look(now, changed, leaving)
    local packed = redis.call('GET', tenant_key('pools'))
    if not packed then
      return nil, 0
    end
    local terms, fields = { cmsgpack.unpack(packed) }, { 'v', 'due' }
    local at = 5
    for _ = 1, terms[4] do
      for cell = 1, terms[at + 1] do
        fields[#fields + 1] = terms[at + 1 + cell]
      end
      at = at + 2 + terms[at + 1]
    end
    local read = redis.call('HMGET', KEYS[1], unpack(fields))
    if terms[1] ~= tonumber(read[1] or 0) or now < terms[2] or now >= terms[3] then
      return nil, 2
    end
    local turns, sets, more, waiting, before, first = {}, {}, 0, 0, 2, nil
    at = 5
    for _ = 1, terms[4] do
      local cap, count = terms[at], terms[at + 1]
      local raws, taken, heads = {}, 0, {}
      for cell = 1, count do
        local field = terms[at + 1 + cell]
        raws[cell] = read[before + cell]
        if changed[field] ~= nil then
          raws[cell] = changed[field]
        end
        taken = taken + (raws[cell] and slots_taken(raws[cell]) or 0)
        waiting = waiting + redis.call('ZCARD', tenant_key('q:' .. field))
      end
      for cell = 1, taken < cap and count or 0 do
        local queue = redis.call('ZRANGE', tenant_key('q:' .. terms[at + 1 + cell]), 0, MOST_TURNS, 'WITHSCORES')
        for place = 1, #queue, 2 do
          if queue[place] ~= leaving then
            heads[#heads + 1] = { tonumber(queue[place + 1]), queue[place], cell }
          end
        end
      end
      table.sort(heads, function(one, other)
        return one[1] < other[1]
      end)
      for place = 1, math.min(#heads, cap - taken) do
        if place > MOST_TURNS then
          more = 1
          break
        end
        local cell = heads[place][3]
        local turn = turn_of(heads[place][2], terms[at + 1 + cell], now)
        if turn[3] then
          raws[cell] = pools.taken(raws[cell], turn[7])
          sets[terms[at + 1 + cell]] = raws[cell]
          first = math.min(first or turn[5], turn[5])
        end
        turns[#turns + 1] = turn
      end
      at, before = at + 2 + count, before + count
    end
    -- After a clock that stepped back, a place may have to be claimed before all else is due.
    if first and read[2] and tonumber(read[2]) <= first then
      first = nil
    elseif first then
      redis.call('ZSCORE', KEYS[4], MEMBER)
    end
    return { turns, sets, waiting - #turns - (leaving and 1 or 0), first }, more
  end

  -- Gives the turns their places, wakes who waits for them, and clears up behind the last one. A store user who may not
  -- PUBLISH only makes waiters slow: they look by themselves when they renew their tickets.
  local function promote_write(promoted)
    local turns, sets, waiting, first = unpack(promoted, 1, 4)
    for number = 1, #turns do
      local id, field, key, record, deadline = unpack(turns[number], 1, 5)
      redis.call('ZREM', tenant_key('q:' .. field), id)
      if key then
        redis.call('SET', key, record)
        redis.call('ZADD', KEYS[3], 'XX', string.format('%.0f', deadline), id)
      end
    end
    if first then
      local due = string.format('%.0f', first)
      redis.call('ZADD', KEYS[4], due, MEMBER)
      redis.call('HSET', KEYS[1], 'due', due)
    end
    if #turns > 0 and next(sets) then
      local cells = {}
      for field, raw in pairs(sets) do
        cells[#cells + 1], cells[#cells + 2] = field, raw
      end
      redis.call('HSET', KEYS[1], unpack(cells))
    end
    for number = 1, #turns do
      local owner = turns[number][6]
      if owner and owner ~= '' then
        local process = string.match(owner, '^[^.]*')
        redis.pcall('PUBLISH', TURN_CHANNEL .. process, MEMBER .. '\n' .. turns[number][1])
      end
    end
    if waiting == 0 then
      redis.call('DEL', tenant_key('pools'))
    end
  end

  return { take = queued_take, look = promote_look, write = promote_write }
end
