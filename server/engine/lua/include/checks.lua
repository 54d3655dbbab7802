--@include window
--@include slots
--@include balance
--@include quota
--@include version

--[[ The look at everything. A plan's checks arrive as one msgpack sequence (wire.py):
1 now_ms (0: ask the store)  2 account version  3 valid from  4 valid until  5 most standing cells
6 number of standing checks  7 number of window scopes, then per scope: its checks, its key's TTL in ms
then per check: kind, field, amount, take (false: nothing), cap, param, shadow
KEYS[5 + n] has the windows of the n-th scope. ]]
local SCOPES, SCOPE_SIZE, CHECK_SIZE, ROW = 7, 2, 7, 5

-- The kinds that keep state, by their number in domain/limits/base.py.
local CHECK = { [3] = window_check, [4] = slots_check, [5] = balance_check, [6] = quota_check }
local WINDOW = 3

-- v, due, then the standing cells that the plan looks at.
local function read_standing(plan)
  local fields = { 'v', 'due' }
  local at = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  for check = 1, plan[6] do
    fields[check + 2] = plan[at + 1]
    at = at + CHECK_SIZE
  end
  return redis.call('HMGET', KEYS[1], unpack(fields))
end

-- Whether the plan was made for this account and this time.
local function is_current(plan, version, now)
  return account_version(version) == plan[2] and now >= plan[3] and now < plan[4]
end

--[[ Looks at every check and works out what taking would write, writing nothing. `standing` is what read_standing gave.
Returns the rows (cap, used, held, reset_ms, wait_ms per check, before anything is taken), the fields and values to set
per key number, which keys need their TTL renewed, whether any check blocks, whether a standing cell is new, and the
blocking windows that moved back with the clock, per key number: to be written even when nothing is taken. ]]
local function check_all(plan, standing, now)
  local rows, sets, renews, moves = {}, {}, {}, {}
  local blocked, opens = false, false
  local at, row = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE, 0
  local key, count, read, before = 1, plan[6], standing, 2
  for scope = 0, plan[SCOPES] do
    if scope > 0 then
      key, count, before = 5 + scope, plan[SCOPES + scope * SCOPE_SIZE - 1], 0
      local fields = {}
      for index = 1, count do
        fields[index] = plan[at + 1 + (index - 1) * CHECK_SIZE]
      end
      read = redis.call('HMGET', KEYS[key], unpack(fields))
    end
    local set, n = {}, 0
    for index = 1, count do
      local raw = read[before + index]
      local cap, used, held, reset, wait, new, renew =
        CHECK[plan[at]](raw, now, plan[at + 2], plan[at + 3], plan[at + 4], plan[at + 5], plan[at + 1])
      rows[row + 1], rows[row + 2], rows[row + 3], rows[row + 4], rows[row + 5] = cap, used, held, reset, wait
      if wait ~= 0 then
        blocked = blocked or plan[at + 6] == 0
        if new then
          moves[key] = moves[key] or {}
          table.insert(moves[key], plan[at + 1])
          table.insert(moves[key], new)
        end
      elseif new then
        set[n + 1], set[n + 2] = plan[at + 1], new
        n = n + 2
        renews[key] = renews[key] or renew
        opens = opens or (scope == 0 and not raw)
      end
      at, row = at + CHECK_SIZE, row + ROW
    end
    if n > 0 then
      sets[key] = set
    end
  end
  return rows, sets, renews, blocked, opens, moves
end

-- Brings the rows up to date with what was taken.
local function count_taken(plan, rows)
  local at = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  for row = 0, #rows - 1, ROW do
    local take = plan[at + 3]
    if take and rows[row + 5] == 0 then
      rows[row + 2] = rows[row + 2] + take
      if plan[at] ~= WINDOW then
        rows[row + 3] = rows[row + 3] + take
      elseif rows[row + 4] == 0 and take > 0 then
        rows[row + 4] = plan[at + 5]
      end
    end
    at = at + CHECK_SIZE
  end
end

-- The rows as one msgpack array.
local function packed_rows(rows)
  local body = #rows > 0 and cmsgpack.pack(unpack(rows)) or ''
  return string.char(0xdc, math.floor(#rows / 256), #rows % 256) .. body
end

-- Writes windows that moved back with the clock, so that none stays closed until the clock is where it was.
local function write_moves(moves)
  for key, set in pairs(moves) do
    redis.call('HSET', KEYS[key], unpack(set))
  end
end

-- Writes what check_all worked out. Every key's type was seen by the look, so these writes cannot fail.
local function write_all(plan, sets, renews, moves)
  write_moves(moves)
  for key, set in pairs(sets) do
    redis.call('HSET', KEYS[key], unpack(set))
    if renews[key] then
      redis.call('PEXPIRE', KEYS[key], string.format('%.0f', plan[SCOPES + (key - 5) * SCOPE_SIZE]))
    end
  end
end
