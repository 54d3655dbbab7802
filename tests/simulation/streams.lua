-- The commands of streams, for `store.lua`.
local command, store = ...

-- Streams: entries {time, sequence, words}, oldest first; `last` is the id of the newest ever.

local function id_of(word, otherwise)
  local time, sequence = string.match(word, '^%(?(%d+)%-?(%d*)$')
  return tonumber(time), tonumber(sequence) or otherwise
end

local function is_before(time, sequence, other_time, other_sequence)
  return time < other_time or (time == other_time and sequence < other_sequence)
end

function command.XADD(key, ...)
  local words, most = { ... }, nil
  if words[1] == 'MAXLEN' then
    most = tonumber(words[3])
    words = { unpack(words, 4) }
  end
  local entry = store.find_or_make(key, 'stream', { entries = {}, last = { 0, 0 } })
  local time, sequence
  if words[1] == '*' then
    time = math.max(store.now(), entry.last[1])
    sequence = time == entry.last[1] and entry.last[2] + 1 or 0
  else
    time = tonumber(string.match(words[1], '^(%d+)%-%*$'))
    sequence = time == entry.last[1] and entry.last[2] + 1 or 0
    assert(not is_before(time, sequence, entry.last[1], entry.last[2]), 'XADD: an id that is not above the last')
  end
  entry.last = { time, sequence }
  for index = 2, #words do
    store.text(words[index])
  end
  table.insert(entry.entries, { time, sequence, { unpack(words, 2) } })
  if most and #entry.entries > most then
    table.remove(entry.entries, 1)
  end
  store.note('x', key, string.format('%.0f-%.0f', time, sequence), words[3])
  return string.format('%.0f-%.0f', time, sequence)
end

function command.XLEN(key)
  local entry = store.find(key, 'stream')
  return entry and #entry.entries or 0
end

local function entry_reply(entry)
  return { string.format('%.0f-%.0f', entry[1], entry[2]), entry[3] }
end

function command.XRANGE(key, first, last, _, count)
  local stream, found = store.find(key, 'stream'), {}
  local from_time, from_sequence = 0, 0
  if first ~= '-' then
    from_time, from_sequence = id_of(first, 0)
    if string.sub(first, 1, 1) == '(' then
      from_sequence = from_sequence + 1
    end
  end
  local to_time, to_sequence = math.huge, 0
  if last ~= '+' then
    to_time, to_sequence = id_of(last, math.huge)
  end
  for _, entry in ipairs(stream and stream.entries or {}) do
    local outside = is_before(entry[1], entry[2], from_time, from_sequence)
      or is_before(to_time, to_sequence, entry[1], entry[2])
    if not outside and #found < (tonumber(count) or math.huge) then
      found[#found + 1] = entry_reply(entry)
    end
  end
  return found
end

function command.XREVRANGE(key, last, first, _, count)
  assert(last == '+' and first == '-' and count == 1, 'XREVRANGE: words that are not simulated')
  local stream = store.find(key, 'stream')
  local newest = stream and stream.entries[#stream.entries]
  return { newest and entry_reply(newest) }
end

function command.XTRIM(key, _, lowest)
  local stream, time, sequence = store.find(key, 'stream'), id_of(lowest, 0)
  local dropped = 0
  while stream and stream.entries[1] and is_before(stream.entries[1][1], stream.entries[1][2], time, sequence) do
    table.remove(stream.entries, 1)
    dropped = dropped + 1
  end
  store.note('t', key, '', dropped)
  return dropped
end
