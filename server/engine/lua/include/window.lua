--[[ window: a rolling-window rate. Twin of server/domain/limits/window.py.

A cell is one string: total (7 bytes), first instant of the newest entry (6), then the entries (instant 6, amount
7), oldest first. A window of length W at t covers (t - W, t]; an entry made at t0 stops counting at t0 + W.
Up to 64 entries every instant is kept apart. Beyond that an entry made within W/1000 of the first instant of the
newest one joins it at the later instant: it counts longer by at most W/1000, never shorter, so that a window has
at most about 1,064 entries (14 KB) whatever the amounts. ]]
local WINDOW_HEAD, WINDOW_ENTRY, WINDOW_EXACT = 13, 13, 64

-- Moves all entries back when the clock stepped back behind them, so that nobody is locked out for longer.
local function window_moved_back(raw, step)
  local total, first = struct.unpack('>I7I6', raw)
  local parts = { struct.pack('>I7I6', total, math.max(first - step, 0)) }
  for at = WINDOW_HEAD + 1, #raw, WINDOW_ENTRY do
    local instant, amount = struct.unpack('>I6I7', raw, at)
    parts[#parts + 1] = struct.pack('>I6I7', instant - step, amount)
  end
  return table.concat(parts)
end

--[[ Looks, and works out the cell with `take` added (false: take nothing).
Returns cap, used, held, reset_ms, wait_ms, new raw value (nil when it takes nothing; when it does not fit, only where
the clock stepped back: the cell moved with it), and whether the key's TTL should be renewed: the newest entry was
made in another half of a window's length. ]]
local function window_check(raw, now, amount, take, cap, length)
  local size, at, total, first, newest, newest_amount = 0, 1, 0, 0, 0, 0
  local reset, moved = 0, nil
  if raw and #raw > WINDOW_HEAD then
    size = #raw
    if (size - WINDOW_HEAD) % WINDOW_ENTRY ~= 0 then
      error('CORRUPT a window cell of ' .. size .. ' bytes')
    end
    newest, newest_amount = struct.unpack('>I6I7', raw, size - WINDOW_ENTRY + 1)
    if newest > now then
      raw = window_moved_back(raw, newest - now)
      newest, moved = now, raw
    end
    if newest <= now - length then
      size = 0
    else
      local oldest, leaving
      total, first, oldest, leaving = struct.unpack('>I7I6I6I7', raw)
      at = WINDOW_HEAD + 1
      while oldest <= now - length do
        total = total - leaving
        at = at + WINDOW_ENTRY
        oldest, leaving = struct.unpack('>I6I7', raw, at)
      end
      -- Entries of 0 wait for usage; `used` falls when the first that counts leaves.
      local first_at = at
      while total > 0 and leaving == 0 do
        first_at = first_at + WINDOW_ENTRY
        oldest, leaving = struct.unpack('>I6I7', raw, first_at)
      end
      reset = total > 0 and oldest + length - now or 0
    end
  elseif raw and #raw < WINDOW_HEAD then
    error('CORRUPT a window cell of ' .. #raw .. ' bytes')
  end

  local missing = total - (cap - amount)
  if amount > 0 and missing > 0 then
    local wait = -1
    if amount <= cap then
      for entry = at, size, WINDOW_ENTRY do
        local instant, leaving = struct.unpack('>I6I7', raw, entry)
        missing = missing - leaving
        if missing <= 0 then
          wait = instant + length - now
          break
        end
      end
    end
    return cap, total, 0, reset, wait, moved
  end
  if not take then
    return cap, total, 0, reset, 0
  end

  local kept = ''
  if size > 0 then
    if newest == now or (now - first <= length / 1000 and size - at >= WINDOW_EXACT * WINDOW_ENTRY - 1) then
      kept = string.sub(raw, at, size - WINDOW_ENTRY)
      first = math.min(first, now)
    else
      kept, first, newest_amount = string.sub(raw, at), now, 0
    end
  else
    first, newest_amount = now, 0
  end
  local half = length / 2
  return cap, total, 0, reset, 0,
    struct.pack('>I7I6', total + take, first) .. kept .. struct.pack('>I6I7', now, newest_amount + take),
    size == 0 or math.floor(newest / half) ~= math.floor(now / half)
end
