--[[ slots: a pool of concurrent places. Twin of server/domain/limits/slots.py. A cell is a decimal count; an
empty pool has no cell. Whose place it is stands in the holds; overdue ones are given back before anybody looks. ]]

local function slots_taken(raw)
  local taken = tonumber(raw)
  if not taken or taken < 0 or taken >= 9007199254740992 or taken % 1 ~= 0 then
    error('CORRUPT a slots cell')
  end
  return taken
end

-- Returns cap, used, held, reset_ms, wait_ms, and the new raw value (nil when it does not fit or takes nothing).
local function slots_check(raw, _, amount, take, cap)
  local taken = raw and slots_taken(raw) or 0
  if amount > 0 and taken + amount > cap then
    return cap, taken, taken, -1, -1
  end
  return cap, taken, taken, -1, 0, take and string.format('%.0f', taken + take) or nil
end
