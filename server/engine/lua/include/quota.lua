--@include quota_place

--[[ Returns used (held included), held, wait_ms, and the new raw value (nil when it does not fit or takes nothing).
Nothing is refused before enforcement, which begins `grace` after settled use reached the limit and its overage; from
then on a request fits whole or not at all. ]]
local function quota_check(raw, now, amount, take, cap, param)
  local start, stop, grace, overage, price = struct.unpack(QUOTA_TERMS, param)
  local at, found = 1, false
  local within, billed, graced, over, held, exhausted, noted = 0, 0, 0, 0, 0, 0, 0
  if raw then
    at, found = quota_place(raw, start)
    if found then
      local _, limit
      _, _, limit, _, _, _, within, billed, graced, over, held, exhausted, noted = struct.unpack(QUOTA, raw, at)
      noted = limit == cap and noted or 0
    end
  end
  local used = within + billed + graced + over
  local total, bound = used + held + amount, math.min(cap + overage, QUOTA_MOST)
  if used + held > QUOTA_MOST then
    error('CORRUPT a quota above 2^53 - 1')
  end
  if used < bound then
    exhausted = 0
  elseif exhausted == 0 then
    exhausted = now
  end
  if amount > 0 and total > bound
    and (total > QUOTA_MOST or grace == 0 or (used >= bound and now >= exhausted + grace)) then
    return used + held, held, (grace > 0 or amount <= bound) and stop - now or -1
  end
  if not take then
    return used + held, held, 0
  end
  local entry = struct.pack(QUOTA, start, stop, cap, overage, grace, price,
    within, billed, graced, over, held + take, exhausted, noted)
  if not raw then
    return used + held, held, 0, entry
  end
  if found then
    return used + held, held, 0, string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE)
  end
  -- A cycle more. Those that are too old leave, unless a hold is still open in them.
  local size = #raw
  while size >= (QUOTA_PAST + 1) * QUOTA_SIZE and at <= size do
    local old_held = select(11, struct.unpack(QUOTA, raw, size - QUOTA_SIZE + 1))
    if old_held > 0 then
      break
    end
    size = size - QUOTA_SIZE
  end
  return used + held, held, 0, string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at, size)
end
