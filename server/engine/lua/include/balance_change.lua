--@include balance_layout
--@include balance_grants

-- {granted, reversed, charged, held, expired, uncollected, debt}, available, grants (nil: none kept apart)
local function balance_open(raw)
  if not raw then
    return { 0, 0, 0, 0, 0, 0, 0 }, 0
  end
  if #raw < BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local b = { struct.unpack(BALANCE, raw) }
  b[8] = nil -- where the next value would begin
  local available = b[1] - b[2] - b[5] - b[3] + b[7] - b[4]
  if #raw == BALANCE_SIZE then
    return b, available
  end
  return b, available, grants_kept().read(string.sub(raw, BALANCE_SIZE + 1), available)
end

-- What is not spent: available and held.
local function left_of(b)
  return b[1] - b[2] - b[5] - b[3] + b[7]
end

local function balance_packed(b, grants)
  if math.min(unpack(b)) < 0 or math.max(unpack(b)) >= 9007199254740992 then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  return struct.pack(BALANCE, b[1], b[2], b[3], b[4], b[5], b[6], b[7])
    .. (grants and grants_kept().packed(grants) or '')
end
