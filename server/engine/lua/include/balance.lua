--@include balance_layout

-- Returns available + held, held, wait_ms, and the new raw value (nil when it does not fit or takes nothing).
local function balance_check(raw, amount, take)
  if not raw then
    return 0, 0, amount > 0 and -1 or 0
  end
  if #raw ~= BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  if math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992 then
    error('CORRUPT a balance above 2^53 - 1')
  end
  local available = math.max(granted - reversed - expired - charged + debt - held, 0)
  if amount > 0 and amount > available then
    return available + held, held, -1
  end
  return available + held, held, 0,
    take and struct.pack(BALANCE, granted, reversed, charged, held + take, expired, uncollected, debt) or nil
end
