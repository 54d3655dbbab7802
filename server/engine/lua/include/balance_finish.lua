--@include share
--@include balance_change

--[[ new raw value, uncollected, whether the ledger wants an entry. Charges the hold's own units, then unreserved ones,
then debt up to the bound. `param` is the bound, -1 - bound where movements go to the ledger, or with draws
(draws.lua). What a hold does not use goes back to the grant that it came from, or is expired with it. ]]
local function balance_finish(raw, ending, live, amount, _, base, last, param, before, after)
  local draws = type(param) == 'string' and { cmsgpack.unpack(param) }
  local bound = draws and draws[1] or param
  local ledgered = bound < 0
  if ledgered then
    bound = -1 - bound
  end
  local b, available, grants = balance_open(raw)
  before, after = share(before, amount, base, last), share(after, amount, base, last)
  local own = live and math.max(amount - before, 0) or 0
  local from_own = math.min(after - before, own)
  local rest = after - before - from_own
  local from_available = math.min(rest, math.max(available, 0))
  local from_debt = math.min(rest - from_available, math.max(bound - b[7], 0))
  local uncollected = rest - from_available - from_debt
  if grants then
    grants_kept().draw(grants, grants[1], available, from_available)
  end
  local over = 0
  if draws and live and ending ~= REPORT then
    over = grants_kept().give_back(grants, draws, math.min(after, amount))
  end
  b[4] = b[4] - (ending == REPORT and from_own or own)
  b[7] = b[7] + from_debt
  b[3] = b[3] + (after - before - uncollected)
  b[5] = b[5] + over
  b[6] = b[6] + uncollected
  return balance_packed(b, grants), uncollected, ledgered and (after > before or over > 0)
end
