--[[ slots: a pool of concurrent places. Twin of server/domain/limits/slots.py. A cell is a decimal count; an
empty pool has no cell. Whose place it is stands in the holds; overdue ones are given back before anybody looks. ]]

local function slots_taken(raw)
  local taken = tonumber(raw)
  if not taken or taken < 0 or taken >= 9007199254740992 or taken % 1 ~= 0 then
    error('CORRUPT a slots cell')
  end
  return taken
end
