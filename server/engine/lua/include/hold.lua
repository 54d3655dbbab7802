--@include hold_layout

-- Reads a record; second, the index of its number of takes. What is no number fails in the arithmetic.
local function hold_read(raw)
  local hold = { cmsgpack.unpack(raw) }
  local meters = tonumber(hold[METERS]) or -1
  local at = METERS + 1 + meters * METER_SIZE
  if #hold ~= at + (tonumber(hold[at]) or -1) * TAKE_SIZE then
    error('CORRUPT a hold of ' .. #raw .. ' bytes')
  end
  local state, created, lease_in, longest_in, lease_ms = hold[1], hold[2], hold[3], hold[4], hold[7]
  local tombstone_ms = hold[8]
  if
    math.min(state - ACTIVE, LEFT - state, created, lease_in, longest_in, lease_ms, tombstone_ms, meters) < 0
    or (created + lease_in + longest_in + lease_ms + tombstone_ms + state) % 1 ~= 0
    or ((state == ACTIVE or state == QUEUED or state == PROMOTED) and tombstone_ms == 0)
  then
    error('CORRUPT a hold in state ' .. state)
  end
  for name = METERS + 1, at - 1, METER_SIZE do
    if type(hold[name]) ~= 'string' or (hold[name + 1] + hold[name + 2] + hold[name + 3]) % 1 ~= 0 then
      error('CORRUPT a meter of a hold')
    end
  end
  return hold, at
end
