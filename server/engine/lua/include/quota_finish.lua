--@include endings
--@include quota_place

--[[ New raw value, and the thresholds that were crossed: start, end, percent, limit, used of each.
`param` has the start of the cycle that the take belongs to, and the thresholds, a byte each. What was delivered is
charged in full: up to the limit, up to the overage, and above both to the grace if the hold was made before that
ended. What a correction found too high (`after` below `before`) is taken back, what was counted last first. ]]
local function quota_finish(raw, ending, live, amount, instant, param, before, after, now)
  if not raw then
    error('CORRUPT a hold of a quota that has no cell')
  end
  local at, found = quota_place(raw, struct.unpack('>I6', param))
  if not found then
    at = #raw - QUOTA_SIZE + 1 -- its cycle left long ago: the oldest one takes the use, so that none is lost
  end
  local start, stop, limit, overage, grace, price, within, billed, graced, over, held, exhausted, noted =
    struct.unpack(QUOTA, raw, at)
  before, after = math.max(before, 0), math.max(after, 0)
  local own = live and math.max(amount - before, 0) or 0
  held = held - (ending == REPORT and math.min(after - before, own) or own)
  local crossed
  local bound, used = math.min(limit + overage, QUOTA_MOST), within + billed + graced + over
  local new = used + after - before
  if after > before then
    local to_within = math.max(math.min(new, limit) - used, 0)
    local to_billed = math.max(math.min(new, bound) - math.max(used, limit), 0)
    local rest = after - before - to_within - to_billed
    within, billed = within + to_within, billed + to_billed
    if grace > 0 and instant < (exhausted > 0 and exhausted or now) + grace then
      graced = graced + rest
    else
      over = over + rest
    end
    if new >= bound and exhausted == 0 then
      exhausted = now
    end
  elseif after < before then
    local back = before - after
    over, back = math.max(over - back, 0), math.max(back - over, 0)
    graced, back = math.max(graced - back, 0), math.max(back - graced, 0)
    billed, back = math.max(billed - back, 0), math.max(back - billed, 0)
    within = math.max(within - back, 0)
    if new < bound then
      exhausted = 0
    end
  end
  for index = 7, #param do
    -- Reached at that part of the limit, rounded up; split so that no product passes 2^53.
    local percent, odd = string.byte(param, index), limit % 100
    local reached_at = (limit - odd) / 100 * percent + math.ceil(odd * percent / 100)
    if percent > noted and limit > 0 and limit < QUOTA_MOST and new >= reached_at then
      noted = percent
      crossed = crossed or {}
      crossed[#crossed + 1] = { start, stop, percent, limit, new }
    end
  end
  if held < 0 or within + billed + graced + over + held > QUOTA_MOST then
    error('CORRUPT a quota outside 0 to 2^53 - 1')
  end
  local entry = struct.pack(QUOTA, start, stop, limit, overage, grace, price,
    within, billed, graced, over, held, exhausted, noted)
  return string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE), crossed
end
