--@include share
--@include window

--[[ Adds `difference` to the entry that counts what was taken at `instant`: the first that is not older, and not later
than merging explains. The clock may have stepped back and moved the entry: then more usage counts with a neighbour, and
less changes nothing, so that no other's usage is taken away. ]]
local function window_adjusted(raw, instant, difference, length)
  local count = (#raw - WINDOW_HEAD) / WINDOW_ENTRY
  if count < 1 or count % 1 ~= 0 then
    error('CORRUPT a window cell of ' .. #raw .. ' bytes')
  end
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I6', raw, WINDOW_HEAD + 1 + middle * WINDOW_ENTRY) < instant then
      low = middle + 1
    else
      high = middle
    end
  end
  local at = WINDOW_HEAD + 1 + math.min(low, count - 1) * WINDOW_ENTRY
  local total, first = struct.unpack('>I7I6', raw)
  local entry, amount = struct.unpack('>I6I7', raw, at)
  if difference < 0 and (low == count or entry - instant > length / 1000) then
    return raw
  end
  local changed = math.max(amount + difference, 0)
  total = total + (changed - amount)
  if total < 0 or total >= 9007199254740992 then
    error('CORRUPT a window outside 0 to 2^53 - 1')
  end
  return struct.pack('>I7I6', total, first)
    .. string.sub(raw, WINDOW_HEAD + 1, at - 1)
    .. struct.pack('>I6I7', entry, changed)
    .. string.sub(raw, at + WINDOW_ENTRY)
end

-- new raw value, uncollected. Entries follow the reported total; one that has left changes no more. `param` is the
-- window's length, negative where a release returns even the request.
local function window_finish(raw, ending, _, amount, instant, base, last, param, before, after, now)
  local was, now_counts
  if after < 0 then
    was, now_counts = amount, (ending == RELEASE and param < 0) and 0 or amount
  else
    was, now_counts = math.max(amount, share(before, amount, base, last)), share(after, amount, base, last)
    if ending == REPORT or ending == EXPIRE then
      now_counts = math.max(amount, now_counts)
    end
  end
  local length = math.abs(param)
  if not raw or now_counts == was or instant <= now - length then
    return raw, 0
  end
  return window_adjusted(raw, instant, now_counts - was, length), 0
end
