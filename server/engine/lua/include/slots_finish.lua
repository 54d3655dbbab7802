--@include share
--@include ints
--@include slots

-- new raw value (false: none), uncollected. Places are freed when the hold ends, however it ends.
local function slots_finish(raw, ending, live, amount)
  if not live or ending == REPORT or not raw then
    return raw, 0
  end
  local left = slots_taken(raw) - amount
  return left > 0 and int(left), 0
end
