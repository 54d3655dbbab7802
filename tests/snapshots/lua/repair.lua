#!lua
--[[ Gives balances the totals that reconciliation found right, if they are still as it found them. An operator's word.

Keys   1 cells (hash)  2-3 unused  4 index of tenants by due (sorted set)  5 unused
Args   1 msgpack sequence: now_ms (0: ask the store), then per balance: field, cell as found ('': none), granted,
         reversed, charged, held, expired, uncollected, debt
       2 the act (acts.lua)
Reply  {1, now} repaired; {0, now} a balance has changed since, nothing was written; {4, now} something is overdue.
Writes cells, ledger, acts. Of grants kept apart, those used up last are cut where they are more than is available.
Example {1, 1773144000000} ]]
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

--[[ The ledger: a stream with an entry for each step that moved money, numbered 0-1, 0-2, … without gaps. An entry is
one msgpack sequence: at_ms, cause (domain/ledger.py), reference, field, the balance's seven totals before and after.

`entries` have the same, with the balance's raw values (false or nil: there was none). That the key is a stream was
seen before the step's first write. ]]
local function write_ledger(entries)
  for index = 1, #entries do
    local at_ms, cause, reference, field, before, after = unpack(entries[index], 1, 6)
    local totals = before and string.sub(before, 1, 49) or string.rep('\0', 49)
    redis.call('XADD', tenant_key('ledger'), '0-*', 'e', cmsgpack.pack(
      at_ms, cause, reference, field, totals, string.sub(after, 1, 49)
    ))
  end
end
--[[ balance: prepaid units. Twin of server/domain/limits/balance.py. A cell is seven running totals of 7 bytes:
granted, reversed, charged, held, expired, uncollected, debt. Behind them stand its grants, where the policy keeps them
apart and there is more than one (balance_grants.lua).
granted - reversed + debt = available + held + charged + expired. Subtracted in an order that keeps every
intermediate result exact. ]]
local BALANCE, BALANCE_SIZE = '>I7I7I7I7I7I7I7', 49
--[[ The grants of a balance that keeps them apart: behind its totals, as one msgpack sequence.
1 burn order (sources as digits)  2 ledgered (1 or 0)  then per grant, by source and expiry: source, expires_ms, left
A grant is all units of one source and one expiry. What of the available units stands in none of them is the first
source's, without an expiry: a balance of nothing else has no sequence. A grant stays until its time is over, even
when nothing is left of it, since a hold may bring something back. ]]
local MONTHLY, NEVER = 1, 9007199254740991
local FIRST_GRANT, GRANT_SIZE, MOST_GRANTS = 3, 3, 64

-- What there is to do with grants: read, packed, draw, add, give_back. Made when asked for: few balances have grants.
local function grants_kept()
  local function grants_read(packed, available)
    local grants = { cmsgpack.unpack(packed) }
    if type(grants[1]) ~= 'string' or #grants < 5 or (#grants - 2) % GRANT_SIZE ~= 0 then
      error('CORRUPT the grants of a balance')
    end
    for at = 2, #grants do
      local value = grants[at]
      if type(value) ~= 'number' or value < 0 or value > NEVER or value % 1 ~= 0 then
        error('CORRUPT a grant of a balance')
      end
    end
    for at = FIRST_GRANT + 2, #grants, GRANT_SIZE do
      available = available - grants[at]
    end
    if available < 0 then
      error('CORRUPT grants above what is available')
    end
    return grants
  end

  local function grants_packed(grants)
    if not grants or #grants < FIRST_GRANT then
      return ''
    end
    return cmsgpack.pack(unpack(grants))
  end

  -- Takes units out of the grants in this order, of one source the first to expire first. Returns what was drawn, in
  -- turn: source, expires_ms, units.
  local function grants_draw(grants, order, available, units)
    local free = available
    for at = FIRST_GRANT + 2, #grants, GRANT_SIZE do
      free = free - grants[at]
    end
    local draws = {}
    local function drawn(source, expires_ms, from)
      local part = math.min(units, from)
      if part > 0 then
        local n = #draws
        draws[n + 1], draws[n + 2], draws[n + 3] = source, expires_ms, part
        units = units - part
      end
      return part
    end
    for digit in string.gmatch(order, '%d') do
      local source = tonumber(digit)
      for at = FIRST_GRANT, #grants, GRANT_SIZE do
        if grants[at] == source then
          grants[at + 2] = grants[at + 2] - drawn(source, grants[at + 1], grants[at + 2])
        end
      end
      if source == MONTHLY then
        free = free - drawn(source, NEVER, free)
      end
    end
    return draws
  end

  -- The index of a grant, or where it belongs and false.
  local function grants_find(grants, source, expires_ms)
    for at = FIRST_GRANT, #grants, GRANT_SIZE do
      if grants[at] == source and grants[at + 1] == expires_ms then
        return at, true
      end
      if grants[at] > source or (grants[at] == source and grants[at + 1] > expires_ms) then
        return at, false
      end
    end
    return #grants + 1, false
  end

  -- Adds units to a grant; false when there would be too many grants.
  local function grants_add(grants, source, expires_ms, units)
    local at, found = grants_find(grants, source, expires_ms)
    if found then
      grants[at + 2] = grants[at + 2] + units
      return true
    end
    if #grants + 1 >= FIRST_GRANT + MOST_GRANTS * GRANT_SIZE then
      return false
    end
    for _, value in ipairs({ units, expires_ms, source }) do
      table.insert(grants, at, value)
    end
    return true
  end

  -- Gives back what was drawn, but for the first `kept` units of it. Returns the units whose grant is over.
  local function grants_return(grants, draws, kept)
    local over = 0
    for at = 2, #draws, 3 do
      local source, expires_ms, units = draws[at], draws[at + 1], draws[at + 2]
      local back = math.max(units - kept, 0)
      kept = math.max(kept - units, 0)
      if back > 0 and not (source == MONTHLY and expires_ms == NEVER) then
        local index, found = grants_find(grants or {}, source, expires_ms)
        if found then
          grants[index + 2] = grants[index + 2] + back
        else
          over = over + back
        end
      end
    end
    return over
  end

  return {
    read = grants_read,
    packed = grants_packed,
    draw = grants_draw,
    add = grants_add,
    give_back = grants_return,
  }
end

-- {granted, reversed, charged, held, expired, uncollected, debt}, available, grants (nil: none kept apart)
local function balance_open(raw)
  if not raw then
    return { 0, 0, 0, 0, 0, 0, 0 }, 0
  end
  if #raw < BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local b = { struct.unpack(BALANCE, raw) }
  b[8] = nil -- where the next value would begin
  local available = b[1] - b[2] - b[5] - b[3] + b[7] - b[4]
  if #raw == BALANCE_SIZE then
    return b, available
  end
  return b, available, grants_kept().read(string.sub(raw, BALANCE_SIZE + 1), available)
end

-- What is not spent: available and held.
local function left_of(b)
  return b[1] - b[2] - b[5] - b[3] + b[7]
end

local function balance_packed(b, grants)
  if math.min(unpack(b)) < 0 or math.max(unpack(b)) >= 9007199254740992 then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  return struct.pack(BALANCE, b[1], b[2], b[3], b[4], b[5], b[6], b[7])
    .. (grants and grants_kept().packed(grants) or '')
end

local REPAIR, FIELDS = 13, 9
local args = { cmsgpack.unpack(ARGV[1]) }
local now = clock(args[1])
local fields = { 'due' }
for at = 2, #args, FIELDS do
  fields[#fields + 1] = args[at]
end
local read = redis.call('HMGET', KEYS[1], unpack(fields))
if read[1] and tonumber(read[1]) <= now then
  return { 4, now }
end
local set, entries = {}, {}
for at = 2, #args, FIELDS do
  local field, found = args[at], args[at + 1]
  local raw = read[(at - 2) / FIELDS + 2]
  if (raw or '') ~= found then
    return { 0, now }
  end
  local grants = raw and #raw > BALANCE_SIZE and { cmsgpack.unpack(string.sub(raw, BALANCE_SIZE + 1)) } or nil
  local b = { unpack(args, at + 2, at + 8) }
  local left = b[1] - b[2] - b[5] - b[3] + b[7] - b[4]
  for grant = FIRST_GRANT + 2, grants and #grants or 0, GRANT_SIZE do
    grants[grant] = math.max(math.min(grants[grant], left), 0)
    left = left - grants[grant]
  end
  local new = balance_packed(b, grants)
  set[#set + 1], set[#set + 2] = field, new
  entries[#entries + 1] = { now, REPAIR, '', field, raw, new }
end
redis.call('XLEN', tenant_key('ledger'))
local acted_ms = last_act()
redis.call('HSET', KEYS[1], unpack(set))
write_ledger(entries)
write_act(ARGV[2], acted_ms, now, '', '')
return { 1, now }
