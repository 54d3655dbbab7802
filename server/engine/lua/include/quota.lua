--[[ quota: an allowance per cycle. Twin of server/domain/limits/quota.py.

A cell is an entry per cycle, the latest first (engine/quota_cells.py): start, end, limit, overage allowed, grace in ms,
price, within, overage, grace, over_hard, held, exhausted at, noted. So a cycle rolls over by putting an entry in front,
and the number of cells does not grow. A hold finds its cycle by the start, and so does a clock that went back. ]]
local QUOTA, QUOTA_SIZE = '>I6I7I7I7I6I7I7I7I7I7I7I6I1', 82
local QUOTA_TERMS = '>I6I7I6I7I7'
local QUOTA_PAST = 12
local QUOTA_MOST = 9007199254740991

-- Where the entry of the cycle that begins at `start` is, or where it belongs, and whether it is there.
local function quota_place(raw, start)
  if #raw == 0 or #raw % QUOTA_SIZE ~= 0 then
    error('CORRUPT a quota cell of ' .. #raw .. ' bytes')
  end
  for at = 1, #raw, QUOTA_SIZE do
    local begins = struct.unpack('>I6', raw, at)
    if begins <= start then
      return at, begins == start
    end
  end
  return #raw + 1, false
end

-- The cell with one entry more at `at`. Cycles that are too old leave, unless a hold is still open in them.
local function quota_with(raw, at, entry)
  local size = #raw
  while size >= (QUOTA_PAST + 1) * QUOTA_SIZE and at <= size do
    local _, _, _, _, _, _, _, _, _, _, held = struct.unpack(QUOTA, raw, size - QUOTA_SIZE + 1)
    if held > 0 then
      break
    end
    size = size - QUOTA_SIZE
  end
  return string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at, size)
end

--[[ Returns cap, used (held included), held, reset_ms, wait_ms, and the new raw value (nil when it does not fit or
takes nothing). Nothing is refused before enforcement, which begins `grace` after settled use reached the limit and its
overage; from then on a request fits whole or not at all. ]]
local function quota_check(raw, now, amount, take, cap, param)
  local start, stop, grace, overage, price = struct.unpack(QUOTA_TERMS, param)
  local at, found = 1, false
  local within, billed, graced, over, held, exhausted, noted = 0, 0, 0, 0, 0, 0, 0
  if raw then
    at, found = quota_place(raw, start)
    if found then
      local _, limit
      _, _, limit, _, _, _, within, billed, graced, over, held, exhausted, noted = struct.unpack(QUOTA, raw, at)
      noted = limit == cap and noted or 0
    end
  end
  local used = within + billed + graced + over
  local total, bound = used + held + amount, math.min(cap + overage, QUOTA_MOST)
  if used + held > QUOTA_MOST then
    error('CORRUPT a quota above 2^53 - 1')
  end
  if used < bound then
    exhausted = 0
  elseif exhausted == 0 then
    exhausted = now
  end
  if amount > 0 and total > bound
    and (total > QUOTA_MOST or grace == 0 or (used >= bound and now >= exhausted + grace)) then
    return cap, used + held, held, stop - now, (grace > 0 or amount <= bound) and stop - now or -1
  end
  if not take then
    return cap, used + held, held, stop - now, 0
  end
  local entry = struct.pack(QUOTA, start, stop, cap, overage, grace, price,
    within, billed, graced, over, held + take, exhausted, noted)
  if not raw then
    return cap, used + held, held, stop - now, 0, entry
  end
  if found then
    entry = string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE)
  else
    entry = quota_with(raw, at, entry)
  end
  return cap, used + held, held, stop - now, 0, entry
end
