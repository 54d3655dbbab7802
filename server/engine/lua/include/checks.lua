--@include window
--@include endings
--@include pool_look
--@include balance
--@include quota
--@include count

--[[ The look at everything. A plan's checks arrive as one msgpack sequence (wire_shape.py):
1 now_ms (0: ask the store)  2 account version  3 valid from  4 valid until  5 most standing cells
6 number of checks  7 of these, standing ones  8 number of window scopes, then per scope: its checks, its key's TTL
in ms
then 'v', 'due', and the field of each check
then per check: kind, amount, take (false: nothing), cap, param, shadow
KEYS[5 + n] has the windows of the n-th scope. ]]
local CHECKS, STANDING, SCOPES, SCOPE_SIZE, CHECK_SIZE, ROW, DRAIN_PARAM = 6, 7, 8, 2, 6, 3, 7

-- v, due, then the standing cells that the plan looks at.
local function read_standing(plan)
  local fields = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  return redis.call('HMGET', KEYS[1], unpack(plan, fields, fields + 1 + plan[STANDING]))
end

-- Whether the plan was made for this account and this time; a tenant without an account has version 0.
local function is_current(plan, version, now)
  version = version and (tonumber(version) or error('CORRUPT an account version')) or 0
  return version == plan[2] and now >= plan[3] and now < plan[4]
end

--[[ Looks at every check and works out what taking would write, writing nothing. `standing` is what read_standing gave.
Returns the figures before anything is taken as a msgpack sequence (two numbers of the kind's own and wait_ms per
check), the same as a table, the fields and values to set per scope (1: the standing cells; false: none), which scopes
need their TTL renewed (nil: none), whether any check blocks, whether a standing cell is new, and the blocking windows
that moved back with the clock, per scope (nil: none): to be written even when nothing is taken. What taking draws from
grants that are kept apart is put into plan.draws, by the cell's field. For a request that must wait in a queue,
plan.queued is how many wait there, and plan.free whether a place is free nevertheless. ]]
local function check_all(plan, standing, now)
  local rows = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } -- made at once for five checks, for speed
  local sets, renews, moves = { false, false, false }, nil, nil
  local blocked, opens = false, false
  local row, field = 0, SCOPES + 3 + plan[SCOPES] * SCOPE_SIZE
  local at = field + plan[CHECKS]
  local count, read, before = plan[STANDING], standing, 2
  for scope = 1, 1 + plan[SCOPES] do
    if scope > 1 then
      count, before = plan[SCOPES + (scope - 1) * SCOPE_SIZE - 1], 0
      read = redis.call('HMGET', KEYS[4 + scope], unpack(plan, field, field + count - 1))
    end
    local set, n = false, 0
    for index = 1, count do
      local raw, kind = read[before + index], plan[at]
      local own, other, wait, new, renew
      -- The kinds that keep state, by their number in domain/limits/base.py.
      if kind == 3 then
        own, other, wait, new, renew = window_check(raw, now, plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4])
      elseif kind == 4 and plan[at + 4] ~= 0 then
        local amount, take, cap, param = plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4]
        if #param == DRAIN_PARAM then
          own, other, wait, new = pool_looks().check(raw, now, amount, take, cap, param)
        else
          local free
          own, other, wait, new, free = pool_looks().queued(plan, field, rows, row, raw, now, amount, take, cap, param)
          plan.queued = wait == QUEUES and other
          plan.free = free
        end
      elseif kind == 4 then
        local taken, take = raw and slots_taken(raw) or 0, plan[at + 2]
        own, other, wait = taken, 0, 0
        if plan[at + 1] > 0 and taken + plan[at + 1] > plan[at + 3] then
          wait = -1
        elseif take then
          new = string.format('%.0f', taken + take)
        end
      elseif kind == 5 then
        local draws
        own, other, wait, new, draws = balance_check(raw, plan[at + 1], plan[at + 2], plan[at + 4])
        if draws then
          plan.draws = plan.draws or {}
          plan.draws[plan[field]] = draws
        end
      elseif kind == 6 then
        own, other, wait, new = quota_check(raw, now, plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4])
      elseif kind == 7 then
        own, other, wait, new = count_check(raw, plan[at + 1], plan[at + 2], plan[at + 3])
      end
      rows[row + 1], rows[row + 2], rows[row + 3] = own, other, wait
      if wait ~= 0 and wait ~= QUEUES then
        blocked = blocked or plan[at + 5] == 0
        if new then
          moves = moves or {}
          moves[scope] = moves[scope] or {}
          table.insert(moves[scope], plan[field])
          table.insert(moves[scope], new)
        end
      elseif new and wait == 0 then
        set = set or {}
        set[n + 1], set[n + 2] = plan[field], new
        n = n + 2
        if renew then
          renews = renews or {}
          renews[scope] = true
        end
        opens = opens or (scope == 1 and not raw)
      end
      at, row, field = at + CHECK_SIZE, row + ROW, field + 1
    end
    sets[scope] = set
  end
  local figures = row > 0 and cmsgpack.pack(unpack(rows, 1, row)) or ''
  return figures, rows, sets, renews, blocked, opens, moves
end

-- Writes what check_all worked out; all of it (`sets`), or just windows that moved back with the clock, so that none
-- stays closed until the clock is where it was. Every key's type was seen by the look, so these writes cannot fail.
local function write_all(plan, sets, renews, moves)
  if moves then
    for scope, set in pairs(moves) do
      redis.call('HSET', KEYS[4 + scope], unpack(set))
    end
  end
  for scope = 1, sets and 1 + plan[SCOPES] or 0 do
    local set, key = sets[scope], scope == 1 and KEYS[1] or KEYS[4 + scope]
    if set then
      redis.call('HSET', key, unpack(set))
      if renews and renews[scope] then
        redis.call('PEXPIRE', key, string.format('%.0f', plan[SCOPES + (scope - 1) * SCOPE_SIZE]))
      end
    end
  end
end
