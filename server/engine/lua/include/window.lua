--@include window_layout

--[[ Looks, and works out the cell with `take` added (false: take nothing).
Returns used, reset_ms, wait_ms, new raw value (nil when it takes nothing; when it does not fit, only where the clock
stepped back: the cell moved with it), and whether the key's TTL should be renewed: the newest entry was made in another
half of a window's length. ]]
local function window_check(raw, now, amount, take, cap, length)
  -- `at` is where the oldest entry that counts begins, `last` where the newest does (0: none).
  local at, last, total, first, newest, newest_amount, reset, moved = 1, 0, 0, now, 0, 0, 0, nil
  if raw then
    last = #raw - WINDOW_TAIL - WINDOW_ENTRY + 1
    if last < 1 or last % WINDOW_ENTRY ~= 1 then
      error('CORRUPT a window cell of ' .. #raw .. ' bytes')
    end
    newest, newest_amount, total, first = struct.unpack('>I6I7I7I6', raw, last)
    if newest > now then
      -- The clock stepped back: all entries move with it, so that nobody is locked out for longer.
      local step, parts = newest - now, {}
      for entry = 1, last, WINDOW_ENTRY do
        local instant, counted = struct.unpack('>I6I7', raw, entry)
        parts[#parts + 1] = struct.pack('>I6I7', instant - step, counted)
      end
      first = math.max(first - step, 0)
      parts[#parts + 1] = struct.pack('>I7I6', total, first)
      raw = table.concat(parts)
      newest, moved = now, raw
    end
    if newest <= now - length then
      last, total, first, newest_amount = 0, 0, now, 0
    else
      local oldest, leaving = struct.unpack('>I6I7', raw)
      while oldest <= now - length do
        total = total - leaving
        at = at + WINDOW_ENTRY
        oldest, leaving = struct.unpack('>I6I7', raw, at)
      end
      if total > 0 then
        -- Entries of 0 wait for usage; `used` falls when the first that counts leaves.
        local counting = at
        while leaving == 0 do
          counting = counting + WINDOW_ENTRY
          oldest, leaving = struct.unpack('>I6I7', raw, counting)
        end
        reset = oldest + length - now
      end
    end
  end

  local missing = total - (cap - amount)
  if amount > 0 and missing > 0 then
    local wait = -1
    if amount <= cap then
      for entry = at, last, WINDOW_ENTRY do
        local instant, leaving = struct.unpack('>I6I7', raw, entry)
        missing = missing - leaving
        if missing <= 0 then
          wait = instant + length - now
          break
        end
      end
    end
    return total, reset, wait, moved
  end
  if not take then
    return total, reset, 0
  end
  if last == 0 then
    return total, reset, 0, struct.pack('>I6I7I7I6', now, take, take, now), true
  end
  local half = length / 2
  local renew = math.floor(newest / half) ~= math.floor(now / half)
  if newest == now or (now - first <= length / 1000 and last - at >= (WINDOW_EXACT - 1) * WINDOW_ENTRY) then
    return total, reset, 0,
      string.sub(raw, at, last - 1) .. struct.pack('>I6I7I7I6', now, newest_amount + take, total + take, first),
      renew
  end
  return total, reset, 0,
    string.sub(raw, at, last + WINDOW_ENTRY - 1) .. struct.pack('>I6I7I7I6', now, take, total + take, now),
    renew
end
