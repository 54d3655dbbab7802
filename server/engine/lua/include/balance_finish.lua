--@include endings
--@include balance_layout
--@include balance_grants
--@include balance_marks

-- Behind the bound, in the param of a balance with marks.
local FIRST_MARK = 2

--[[ New raw value, uncollected, whether the ledger wants an entry, which marks were reached (nil: none). Charges the
hold's own units, then unreserved ones, then debt up to the bound. `param` is the bound, -1 - bound where movements go
to the ledger, or with marks and draws (hold_layout.lua). What a hold does not use goes back to the grant that it came
from, or is expired with it. ]]
local function balance_finish(raw, ending, live, amount, param, before, after, field)
  local bound, draws, marks = param, nil, nil
  if type(param) == 'string' then
    draws = { cmsgpack.unpack(param) }
    bound = draws[1]
    if type(bound) == 'string' then
      marks = { cmsgpack.unpack(bound) }
      bound = marks[1]
    end
    draws = draws[2] and draws
  end
  local ledgered = bound < 0
  if ledgered then
    bound = -1 - bound
  end
  local granted, reversed, charged, held, expired, uncollected, debt = 0, 0, 0, 0, 0, 0, 0
  if raw then
    if #raw < BALANCE_SIZE then
      error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
    end
    granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  end
  local had = granted - reversed - expired - charged + debt
  local kept, grants
  if raw and #raw > BALANCE_SIZE then
    kept = grants_kept()
    grants = kept.read(string.sub(raw, BALANCE_SIZE + 1), granted - reversed - expired - charged + debt - held)
  end
  before, after = before > 0 and before or 0, after > 0 and after or 0
  local own = live and amount > before and amount - before or 0
  local from_own = after - before < own and after - before or own
  local rest = after - before - from_own
  local lost = 0
  if rest > 0 then
    local available = granted - reversed - expired - charged + debt - held
    local from_available = math.min(rest, math.max(available, 0))
    local from_debt = math.min(rest - from_available, math.max(bound - debt, 0))
    lost = rest - from_available - from_debt
    debt = debt + from_debt
    if grants then
      kept.draw(grants, grants[1], available, from_available)
    end
  end
  local over = 0
  if draws and live and ending ~= REPORT then
    over = (kept or grants_kept()).give_back(grants, draws, math.min(after, amount))
  end
  held = held - (ending == REPORT and from_own or own)
  charged = charged + (after - before - lost)
  expired = expired + over
  uncollected = uncollected + lost
  if
    held < 0
    or debt < 0
    or math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992
  then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  local new = struct.pack(BALANCE, granted, reversed, charged, held, expired, uncollected, debt)
  if grants then
    new = new .. kept.packed(grants)
  end
  local falls
  if marks then
    local left = granted - reversed - expired - charged + debt
    falls = marks_reached(nil, field, marks, FIRST_MARK, had, left)
  end
  return new, lost, ledgered and (after > before or over > 0), falls
end
