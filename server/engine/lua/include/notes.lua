--@include keys
--@include ints

--[[ Notes for the tenant's people, in the stream hg:{p/t}:note: each a list of fields with values (engine/notes.py).
The oldest leave when there are more than this. ]]
local MOST_NOTES = '1000'

-- Before the first write of a step that has notes: only a wrong type could still stop them.
local function see_notes(notes)
  if #notes > 0 then
    redis.call('XLEN', note_key())
  end
end

local function write_notes(notes)
  for _, note in ipairs(notes) do
    redis.call('XADD', note_key(), 'MAXLEN', '=', MOST_NOTES, '*', unpack(note))
  end
end

-- A quota's thresholds that a settle crossed, as notes.
local function crossing_notes(notes, field, crossed, now)
  for _, one in ipairs(crossed) do
    local start, percent, limit, used = unpack(one)
    notes[#notes + 1] = {
      'kind', 'threshold', 'at', int(now), 'cell', field, 'cycle', int(start),
      'percent', int(percent), 'limit', int(limit), 'used', int(used),
    }
  end
end
