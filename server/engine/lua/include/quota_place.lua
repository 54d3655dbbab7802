--[[ quota: an allowance per cycle. Twin of server/domain/limits/quota.py.

A cell is an entry per cycle, the latest first (engine/quota_cells.py): start, end, limit, overage allowed, grace in ms,
price, within, overage, grace, over_hard, held, exhausted at, noted. So a cycle rolls over by putting an entry in front,
and the number of cells does not grow. A hold finds its cycle by the start, and so does a clock that went back. ]]
local QUOTA, QUOTA_SIZE, QUOTA_TERMS = '>I6I7I7I7I6I7I7I7I7I7I7I6I1', 82, '>I6I7I6I7I7'
local QUOTA_PAST, QUOTA_MOST = 12, 9007199254740991

-- Where the entry of the cycle that begins at `start` is, or where it belongs, and whether it is there.
local function quota_place(raw, start)
  if #raw == 0 or #raw % QUOTA_SIZE ~= 0 then
    error('CORRUPT a quota cell of ' .. #raw .. ' bytes')
  end
  for at = 1, #raw, QUOTA_SIZE do
    local begins = struct.unpack('>I6', raw, at)
    if begins <= start then
      return at, begins == start
    end
  end
  return #raw + 1, false
end
