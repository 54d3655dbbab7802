--@include share
--@include balance_change

-- new raw value, uncollected. Charges the hold's own units, then unreserved ones, then debt up to `bound`.
local function balance_finish(raw, ending, live, amount, _, base, last, bound, before, after)
  local b, available = balance_open(raw)
  before, after = share(before, amount, base, last), share(after, amount, base, last)
  local own = live and math.max(amount - before, 0) or 0
  local from_own = math.min(after - before, own)
  local rest = after - before - from_own
  local from_available = math.min(rest, math.max(available, 0))
  local from_debt = math.min(rest - from_available, math.max(bound - b[7], 0))
  local uncollected = rest - from_available - from_debt
  b[4] = b[4] - (ending == REPORT and from_own or own)
  b[7] = b[7] + from_debt
  b[3] = b[3] + (after - before - uncollected)
  b[6] = b[6] + uncollected
  return balance_packed(b), uncollected
end
