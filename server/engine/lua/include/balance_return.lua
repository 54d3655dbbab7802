--@include balance_change

-- Takes units back from a balance: what is available, of the grants in this order, then debt up to its bound. Returns
-- how many.
local function take_back(b, available, grants, order, units, bound)
  local taken = math.min(units, math.max(available, 0))
  local owed = math.min(units - taken, math.max(bound - b[7], 0))
  if grants then
    grants_kept().draw(grants, order, available, taken)
  end
  b[2], b[7] = b[2] + taken + owed, b[7] + owed
  return taken + owed
end
