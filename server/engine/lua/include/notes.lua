--@include keys

--[[ Notes for the tenant's people, in the stream hg:{p/t}:note: each a list of fields with values (engine/notes.py).
The oldest leave when there are more than this. ]]
local MOST_NOTES = '1000'
local FALL_SIZE = 3

-- What there is to do with notes: look, write. Made when asked for: few steps reach a threshold.
local function notes_kept()
  -- That both keys have their types is seen before a step's first write.
  local function notes_look()
    redis.call('XLEN', tenant_key('note'))
    redis.call('ZCARD', NOTED_KEY)
  end

  -- Writes the thresholds that a step crossed: `crossings` has field, start, end, percent, limit, used of each, or for
  -- a balance field, mark, left. The tenant is listed for the webhook by its oldest note that was not told, and whoever
  -- watches is woken; a store user who may not PUBLISH only makes watchers slow.
  local function notes_write(crossings, now)
    for index = 1, #crossings do
      local crossing = crossings[index]
      local names = #crossing == FALL_SIZE and { 'mark', 'left' } or { 'cycle', 'ends', 'percent', 'limit', 'used' }
      local fields = {}
      for place = 1, #names do
        fields[place * 2 - 1], fields[place * 2] = names[place], string.format('%.0f', crossing[place + 1])
      end
      redis.call(
        'XADD', tenant_key('note'), 'MAXLEN', '=', MOST_NOTES, '*',
        'kind', 'threshold', 'at', string.format('%.0f', now), 'cell', crossing[1], unpack(fields)
      )
    end
    redis.call('ZADD', NOTED_KEY, 'NX', string.format('%.0f', now), MEMBER)
    redis.pcall('PUBLISH', NOTED_CHANNEL, MEMBER)
  end

  return { look = notes_look, write = notes_write }
end
