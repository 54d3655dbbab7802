--@include balance_grants
--[[ balance: prepaid units. Twin of server/domain/limits/balance.py. A cell is seven running totals of 7 bytes:
granted, reversed, charged, held, expired, uncollected, debt. Behind them stand its grants, where the policy keeps them
apart and there is more than one (balance_grants.lua).
granted - reversed + debt = available + held + charged + expired. Subtracted in an order that keeps every
intermediate result exact. ]]
local BALANCE, BALANCE_SIZE = '>I7I7I7I7I7I7I7', 49

-- What a request draws from each balance that keeps grants apart, by the cell's field (draws.lua); nil without any.
local DRAWS

-- Returns cap, used, held, reset_ms, wait_ms, and the new raw value (nil when it does not fit or takes nothing).
local function balance_check(raw, _, amount, take, _, order, field)
  if not raw then
    return 0, 0, 0, -1, amount > 0 and -1 or 0
  end
  if #raw < BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local granted, reversed, charged, held, expired, uncollected, debt = struct.unpack(BALANCE, raw)
  if math.max(granted, reversed, charged, held, expired, uncollected, debt) >= 9007199254740992 then
    error('CORRUPT a balance above 2^53 - 1')
  end
  local available = math.max(granted - reversed - expired - charged + debt - held, 0)
  local grants = #raw > BALANCE_SIZE and grants_kept().read(string.sub(raw, BALANCE_SIZE + 1), available)
  if amount > 0 and amount > available then
    return available + held, held, held, -1, -1
  end
  if not take then
    return available + held, held, held, -1, 0
  end
  local new = struct.pack(BALANCE, granted, reversed, charged, held + take, expired, uncollected, debt)
  if grants then
    if order ~= 0 then
      grants[1] = order
    end
    DRAWS = DRAWS or {}
    DRAWS[field] = grants_kept().draw(grants, grants[1], available, take)
    new = new .. grants_kept().packed(grants)
  end
  return available + held, held, held, -1, 0, new
end
