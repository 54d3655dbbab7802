--@include balance_layout
--@include balance_grants

-- Returns available + held, held, wait_ms, the new raw value (nil when it does not fit or takes nothing), and what was
-- drawn from its grants, where they are kept apart. `order` is the policy's burn order, or 0.
local function balance_check(raw, amount, take, order)
  if not raw then
    return 0, 0, amount > 0 and -1 or 0
  end
  if #raw < BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  if math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992 then
    error('CORRUPT a balance above 2^53 - 1')
  end
  local available = math.max(granted - reversed - expired - charged + debt - held, 0)
  local kept, grants
  if #raw > BALANCE_SIZE then
    kept = grants_kept()
    grants = kept.read(string.sub(raw, BALANCE_SIZE + 1), available)
  end
  if amount > 0 and amount > available then
    return available + held, held, -1
  end
  local new = take and struct.pack(BALANCE, granted, reversed, charged, held + take, expired, uncollected, debt) or nil
  if not (grants and take) then
    return available + held, held, 0, new
  end
  if order ~= 0 then
    grants[1] = order
  end
  local draws = kept.draw(grants, grants[1], available, take)
  return available + held, held, 0, new .. kept.packed(grants), draws
end
