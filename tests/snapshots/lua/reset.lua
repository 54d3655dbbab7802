#!lua flags=allow-oom
--[[ Forgets what a limit has counted. An operator's word.

Keys   1 cells (hash)  2 account (string)  3 unused  4 index of tenants by due (sorted set)  5 unused
       6 ids of writes already made (hash)  7 windows of the scope (hash)
Args   1 msgpack sequence: now_ms (0: ask the store), write id, fingerprint, field, of every scope (1 or 0), length of
         the window in ms (0: a quota), and of a quota: account version, start and end of the cycle
       2 the act (acts.lua)
Reply  {1, now, cells, counted} forgotten, in so many cells that had counted something; {2, now, cells, counted} it
       was before, under this id; {3, now, account} the account or the cycle is another one; {4, now} something is
       overdue: call reap, then ask again; {6, now} this id was used before for something else.
Writes cells or windows, ids, acts. A window's entries stay with nothing in them, so that a hold that made one settles
       in it, and not in a neighbour; what open holds keep of a quota stays held.
Example {1, 1773144000000, 1, 60} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- A key that a script finds in its own data: what is behind the tenant's tag. KEYS[1] is hg:{policy/tenant}:cells; all
-- else of the tenant starts with the same tag. Mirrors server/engine/keys.py, and nothing else in Lua builds a key.
local function tenant_key(rest)
  return string.sub(KEYS[1], 1, -6) .. rest
end

-- What is published when there are new notes, with the tenant's name; and, with the name of a process behind it, when
-- the turn of one of its open calls has come, with the tenant's name and the hold's id.
local NOTED_CHANNEL, TURN_CHANNEL = 'hg:noted', 'hg:turn:'

-- The index of the slot's tenants with notes for the webhook, beside that by due, and the tenant's name in both.
local NOTED_KEY = string.sub(KEYS[4], 1, -4) .. 'noted'
local MEMBER = string.sub(KEYS[1], 5, -8)

--[[ What operators did: the stream hg:{n}:acts of the tenant's hash slot, beside the index by due, so that the line is
written by the step that it tells of and outlives the tenant. An entry is two msgpack sequences: `a`, the act as the
server put it (engine/acts.py), opaque here, and `e`, at_ms, the tenant's name, before, after. Its id begins with when
it was made, or, where the clock stepped back, with that of the entry before.
Entries leave when they are too old or too many; the whole stream leaves when nothing was added for as long. ]]
local MOST_ACTS, ACTS_KEPT_MS = '10000', 34560000000

local function acts_key()
  return string.sub(KEYS[4], 1, -4) .. 'acts'
end

-- When the last act was, seen before a step's first write. (In capitals the word would be a constant's name.)
local function last_act()
  local last = redis.call('XREVRANGE', acts_key(), '+', '-', 'count', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

local function write_act(act, last_ms, now, before, after)
  redis.call(
    'XADD', acts_key(), 'MAXLEN', '=', MOST_ACTS, string.format('%.0f-*', math.max(last_ms, now)),
    'a', act, 'e', cmsgpack.pack(now, MEMBER, before, after)
  )
  redis.call('XTRIM', acts_key(), 'MINID', string.format('%.0f', math.max(now - ACTS_KEPT_MS, 0)))
  redis.call('PEXPIRE', acts_key(), string.format('%.0f', ACTS_KEPT_MS))
end
--[[ quota: an allowance per cycle. Twin of server/domain/limits/quota.py.

A cell is an entry per cycle, the latest first (engine/quota_cells.py): start, end, limit, overage allowed, grace in ms,
price, within, overage, grace, over_hard, held, exhausted at, noted. So a cycle rolls over by putting an entry in front,
and the number of cells does not grow. A hold finds its cycle by the start, and so does a clock that went back. ]]
local QUOTA, QUOTA_SIZE, QUOTA_TERMS = '>I6I7I7I7I6I7I7I7I7I7I7I6I1', 82, '>I6I7I6I7I7'
local QUOTA_PAST, QUOTA_MOST = 12, 9007199254740991

-- Where the entry of the cycle that begins at `start` is, or where it belongs, and whether it is there.
local function quota_place(raw, start)
  if #raw == 0 or #raw % QUOTA_SIZE ~= 0 then
    error('CORRUPT a quota cell of ' .. #raw .. ' bytes')
  end
  for at = 1, #raw, QUOTA_SIZE do
    local begins = struct.unpack('>I6', raw, at)
    if begins <= start then
      return at, begins == start
    end
  end
  return #raw + 1, false
end
--[[ window: a rolling-window rate. Twin of server/domain/limits/window.py.

A cell is one string: the entries (instant 6 bytes, amount 7), oldest first, then total (7) and the first instant of the
newest entry (6). A window of length W at t covers (t - W, t]; an entry made at t0 stops counting at t0 + W.
Up to 64 entries every instant is kept apart. Beyond that an entry made within W/1000 of the first instant of the
newest one joins it at the later instant: it counts longer by at most W/1000, never shorter, so that a window has
at most about 1,064 entries (14 KB) whatever the amounts. ]]
local WINDOW_ENTRY, WINDOW_TAIL, WINDOW_EXACT = 13, 13, 64

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
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end

local args = { cmsgpack.unpack(ARGV[1]) }
local now, write_id, fingerprint, field, every, length = clock(args[1]), unpack(args, 2, 6)
local head = redis.call('HMGET', KEYS[1], 'v', 'due')
if head[2] and (tonumber(head[2]) or error('CORRUPT the earliest lease end')) <= now then
  return { 4, now }
end
local known = redis.call('HGET', KEYS[6], write_id)
if known then
  if string.sub(known, 1, #fingerprint) ~= fingerprint then
    return { 6, now }
  end
  return { 2, now, cmsgpack.unpack(string.sub(known, #fingerprint + 1)) }
end

local place, set, cells, counted = KEYS[1], {}, 0, 0
if length > 0 then
  place = KEYS[7]
  local raw = redis.call('HGET', place, field)
  if raw then
    counted = window_check(raw, now, 0, false, 0, length)
    cells = math.min(counted, 1)
    local parts = {}
    for entry = 1, #raw - WINDOW_TAIL, WINDOW_ENTRY do
      parts[#parts + 1] = string.sub(raw, entry, entry + 5) .. struct.pack('>I7', 0)
    end
    parts[#parts + 1] = struct.pack('>I7', 0) .. string.sub(raw, -6)
    set = { field, table.concat(parts) }
  end
else
  local version, start, stop = unpack(args, 7, 9)
  if account_version(head[1]) ~= version or now < start or now >= stop then
    return { 3, now, redis.call('GET', KEYS[2]) or '' }
  end
  local read = redis.call('HGETALL', KEYS[1])
  for index = 1, #read, 2 do
    local name, raw = read[index], read[index + 1]
    if name == field or (every == 1 and string.sub(name, 1, #field + 1) == field .. ':') then
      local at, found = quota_place(raw, start)
      if found then
        local _, _, limit, overage, grace, price, within, billed, graced, over, held = struct.unpack(QUOTA, raw, at)
        local used = within + billed + graced + over
        cells, counted = cells + math.min(used, 1), counted + used
        local entry = struct.pack(QUOTA, start, stop, limit, overage, grace, price, 0, 0, 0, 0, held, 0, 0)
        set[#set + 1] = name
        set[#set + 1] = string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE)
      end
    end
  end
end
local acted_ms = last_act()

for index = 1, #set, 2 do
  redis.call('HSET', place, set[index], set[index + 1])
end
redis.call('HSET', KEYS[6], write_id, fingerprint .. cmsgpack.pack(cells, counted))
write_act(ARGV[2], acted_ms, now, string.format('%.0f', counted), '0')
return { 1, now, cells, counted }
