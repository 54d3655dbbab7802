--@include hold_layout

-- The reported totals as they stand, by meter number; nothing reported counts as 0.
local function reported(hold)
  local totals = {}
  for meter = 1, hold[METERS] do
    totals[meter] = math.max(hold[meter * METER_SIZE + REPORTED], 0)
  end
  return totals
end
