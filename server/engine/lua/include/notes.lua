--@include keys

--[[ Notes for the tenant's people, in the stream hg:{p/t}:note: each a list of fields with values (engine/notes.py).
The oldest leave when there are more than this. ]]
local MOST_NOTES = '1000'

-- That both keys have their types is seen before a step's first write.
local function look_at_notes()
  redis.call('XLEN', tenant_key('note'))
  redis.call('ZCARD', noted_key())
end

-- Writes the thresholds that a step crossed: `crossings` has field, start, percent, limit, used of each. The tenant is
-- listed for the webhook by its oldest note that was not told, and whoever watches is woken; a store user who may not
-- PUBLISH only makes watchers slow.
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
  redis.call('ZADD', noted_key(), 'NX', string.format('%.0f', now), member_name())
  redis.pcall('PUBLISH', NOTED_CHANNEL, member_name())
end
