--@include endings
--@include window_layout

--[[ New raw value. Entries follow the reported total (`before` and `after` are
this take's part of it); one that has left changes no more. `param` is the window's length,
negative where a release returns even the request.

The entry that counts what was taken at `instant` is the first that is not older, and not later than merging explains.
The clock may have stepped back and moved the entry: then more usage counts with a neighbour, and less changes nothing,
so that no other's usage is taken away. ]]
local function window_finish(raw, ending, taken, instant, param, before, after, now)
  local was, now_counts
  if after < 0 then
    was, now_counts = taken, (ending == RELEASE and param < 0) and 0 or taken
  else
    was, now_counts = math.max(taken, before), after
    if ending == REPORT or ending == EXPIRE then
      now_counts = math.max(taken, now_counts)
    end
  end
  local length, difference = math.abs(param), now_counts - was
  if not raw or difference == 0 or instant <= now - length then
    return raw
  end
  local tail = #raw - WINDOW_TAIL + 1
  local count = (tail - 1) / WINDOW_ENTRY
  if count < 1 or count % 1 ~= 0 then
    error('CORRUPT a window cell of ' .. #raw .. ' bytes')
  end
  -- Most holds are young: double the step back from the newest entry, then halve what is left.
  local low, high, step = count - 1, count, 1
  while low > 0 and struct.unpack('>I6', raw, low * WINDOW_ENTRY + 1) >= instant do
    high, step = low, step * 2
    low = math.max(low - step, 0)
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I6', raw, middle * WINDOW_ENTRY + 1) < instant then
      low = middle + 1
    else
      high = middle
    end
  end
  local at = math.min(low, count - 1) * WINDOW_ENTRY + 1
  local total, first = struct.unpack('>I7I6', raw, tail)
  local entry, amount = struct.unpack('>I6I7', raw, at)
  if difference < 0 and (low == count or entry - instant > length / 1000) then
    return raw
  end
  local changed = math.max(amount + difference, 0)
  total = total + (changed - amount)
  if total < 0 or total >= 9007199254740992 then
    error('CORRUPT a window outside 0 to 2^53 - 1')
  end
  return string.sub(raw, 1, at - 1)
    .. struct.pack('>I6I7', entry, changed)
    .. string.sub(raw, at + WINDOW_ENTRY, tail - 1)
    .. struct.pack('>I7I6', total, first)
end
