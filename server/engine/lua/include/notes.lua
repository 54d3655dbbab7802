--@include keys

--[[ Notes for the tenant's people, in the stream hg:{p/t}:note: each a list of fields with values (engine/notes.py).
The oldest leave when there are more than this. ]]
local MOST_NOTES = '1000'

-- Writes the thresholds that a step crossed: `crossings` has field, start, percent, limit, used of each. That the key
-- is a stream was seen before the step's first write.
local function write_crossings(crossings, now)
  for index = 1, #crossings do
    local field, start, percent, limit, used = unpack(crossings[index])
    redis.call(
      'XADD', tenant_key('note'), 'MAXLEN', '=', MOST_NOTES, '*',
      'kind', 'threshold', 'at', string.format('%.0f', now), 'cell', field, 'cycle', string.format('%.0f', start),
      'percent', string.format('%.0f', percent), 'limit', string.format('%.0f', limit),
      'used', string.format('%.0f', used)
    )
  end
end
