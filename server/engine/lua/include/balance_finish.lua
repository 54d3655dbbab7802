--@include endings
--@include balance_layout

-- New raw value, uncollected. Charges the hold's own units, then unreserved ones, then debt up to `bound`.
local function balance_finish(raw, ending, live, amount, bound, before, after)
  local granted, reversed, charged, held, expired, uncollected, debt = 0, 0, 0, 0, 0, 0, 0
  if raw then
    if #raw ~= BALANCE_SIZE then
      error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
    end
    granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  end
  before, after = math.max(before, 0), math.max(after, 0)
  local own = live and math.max(amount - before, 0) or 0
  local from_own = math.min(after - before, own)
  local rest = after - before - from_own
  local lost = 0
  if rest > 0 then
    local available = granted - reversed - expired - charged + debt - held
    local from_available = math.min(rest, math.max(available, 0))
    local from_debt = math.min(rest - from_available, math.max(bound - debt, 0))
    lost = rest - from_available - from_debt
    debt = debt + from_debt
  end
  held = held - (ending == REPORT and from_own or own)
  charged = charged + (after - before - lost)
  uncollected = uncollected + lost
  if
    math.min(held, debt) < 0
    or math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992
  then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  return struct.pack(BALANCE, granted, reversed, charged, held, expired, uncollected, debt), lost
end
