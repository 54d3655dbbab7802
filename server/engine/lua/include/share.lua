-- Why a take is changed; the numbers are those of domain/limits/base.py.
local REPORT, SETTLE, RELEASE, EXPIRE = 1, 2, 3, 4

-- The part of a meter's reported total that falls on one take. A raise adds a take that starts at `base`; the
-- last one carries what is used beyond the reserved total.
local function share(total, amount, base, last)
  local beyond = math.max(total - base, 0)
  if last == 1 then
    return beyond
  end
  return math.min(beyond, amount)
end
