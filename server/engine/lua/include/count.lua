--@include count_layout

-- Returns units that stand or are held, those held, wait_ms, and the new raw value (nil when it does not fit or takes
-- nothing).
local function count_check(raw, amount, take, cap)
  local kept = counts_kept()
  local standing, held = kept.read(raw)
  if amount > 0 and standing + held + amount > cap then
    return standing + held, held, -1
  end
  return standing + held, held, 0, take and kept.packed(standing, held + take) or nil
end
