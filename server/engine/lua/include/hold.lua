--[[ A hold's record: msgpack values one behind the other.
1 state  2 created_ms  3 lease_end_ms (0: no lease)  4 longest_end_ms  5 looks (msgpack array of 5 per check, opaque)
6 fingerprint  7 lease_ms  8 tombstone_ms  9 note (opaque)
10 number of meters, then per meter: name, reserved, reported (-1: never), uncollected
then the number of takes, then per take: kind, meter (0: follows no report), scope, field, amount,
ms since created, base, last, param (a balance's debt bound, -1 - bound where it has a ledger, or with draws, see
draws.lua; a window's length in ms, negative where a release returns even the request; a quota's cycle and
thresholds, packed) ]]
local ACTIVE, SETTLED, RELEASED, EXPIRED, SETTLED_LATE, DONE = 1, 2, 3, 4, 5, 6
local METERS, METER_SIZE, TAKE_SIZE = 10, 4, 9
local BALANCE_KIND = 5 -- as in domain/limits/base.py

local function hold_read(raw)
  local hold = { cmsgpack.unpack(raw) }
  local meters = hold[METERS]
  local takes = type(meters) == 'number' and hold[METERS + 1 + meters * METER_SIZE]
  if type(takes) ~= 'number' or #hold ~= METERS + 1 + meters * METER_SIZE + takes * TAKE_SIZE then
    error('CORRUPT a hold of ' .. #raw .. ' bytes')
  end
  for _, number in ipairs({ 1, 2, 3, 4, 7, 8 }) do
    local value = hold[number]
    if type(value) ~= 'number' or value < 0 or value % 1 ~= 0 or (number == 8 and value == 0) then
      error('CORRUPT a hold in its field ' .. number)
    end
  end
  if hold[1] < ACTIVE or hold[1] > DONE then
    error('CORRUPT a hold in state ' .. hold[1])
  end
  for at = METERS + 1, METERS + meters * METER_SIZE, METER_SIZE do
    if type(hold[at]) ~= 'string' or type(hold[at + 1] + hold[at + 2] + hold[at + 3]) ~= 'number' then
      error('CORRUPT a meter of a hold')
    end
  end
  return hold
end

-- Index of the number of takes.
local function takes_at(hold)
  return METERS + 1 + hold[METERS] * METER_SIZE
end

-- Index of a meter's name, from its number.
local function meter_at(number)
  return METERS + 1 + (number - 1) * METER_SIZE
end

local function hold_packed(hold)
  return cmsgpack.pack(unpack(hold))
end
