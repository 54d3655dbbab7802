#!lua flags=allow-oom
--[[ Gives back a standing allocation.

Keys   1 cells (hash)
Args   1 msgpack sequence: name, cell ('': of every limit; else of cells with this name alone)
Reply  {1} given back; {0} nothing stands under this name.
Writes cells, allocations (allocations.lua).
Example {1} ]]
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

-- What there is to do with allocations: read, write. Made when asked for: few holds have counts.
local function allocations_kept()
  -- What stands under a name: units by cell field; nothing for a name that is not known.
  local function allocation_read(name)
    local raw = redis.call('HGET', tenant_key('alloc'), name)
    local units = {}
    local values = raw and { cmsgpack.unpack(raw) } or {}
    for at = 1, #values, 2 do
      if type(values[at]) ~= 'string' or type(values[at + 1]) ~= 'number' then
        error('CORRUPT an allocation')
      end
      units[values[at]] = values[at + 1]
    end
    return units
  end

  -- Writes what stands under a name from now on; a name under which nothing does is forgotten.
  local function allocation_write(name, units)
    local values = {}
    for field, amount in pairs(units) do
      values[#values + 1], values[#values + 2] = field, amount
    end
    if #values == 0 then
      redis.call('HDEL', tenant_key('alloc'), name)
    else
      redis.call('HSET', tenant_key('alloc'), name, cmsgpack.pack(unpack(values)))
    end
  end

  return { read = allocation_read, write = allocation_write }
end
--[[ count: standing allocations. Twin of server/domain/limits/count.py.

A cell is the letter n, the units that stand, and those that open holds keep; there is none while both are 0. Which
allocations stand is in the hash hg:{p/t}:alloc: by name a msgpack sequence, per cell: field, units. ]]
local COUNT, COUNT_SIZE = '>c1I7I7', 15

-- What there is to do with a cell: read, packed, finish. Made when asked for: few policies have counts.
local function counts_kept()
  -- Units that stand and units that are held.
  local function count_read(raw)
    if not raw then
      return 0, 0
    end
    if #raw ~= COUNT_SIZE then
      error('CORRUPT a count of ' .. #raw .. ' bytes')
    end
    local mark, standing, held = struct.unpack(COUNT, raw)
    if mark ~= 'n' or standing + held >= 9007199254740992 then
      error('CORRUPT a count')
    end
    return standing, held
  end

  -- The new raw value, or false where nothing is left.
  local function count_packed(standing, held)
    if math.min(standing, held) < 0 or standing + held >= 9007199254740992 then
      error('CORRUPT a count outside 0 to 2^53 - 1')
    end
    return standing + held > 0 and struct.pack(COUNT, 'n', standing, held)
  end

  -- The new raw value without what a hold held, where that ends, and with `stands` units more that stand, beyond the
  -- limit too, because they exist.
  local function count_finish(raw, frees, amount, stands)
    local standing, held = count_read(raw)
    return count_packed(standing + stands, held - (frees and amount or 0))
  end

  return { read = count_read, packed = count_packed, finish = count_finish }
end

local name, cell = cmsgpack.unpack(ARGV[1])
local allocations, counts = allocations_kept(), counts_kept()
local units, given, fields, kept = allocations.read(name), {}, {}, {}
for field, amount in pairs(units) do
  if cell == '' or field == cell or string.sub(field, 1, #cell + 1) == cell .. ':' then
    fields[#fields + 1] = field
    given[field] = amount
  else
    kept[field] = amount
  end
end
if #fields == 0 then
  return { 0 }
end
local read = redis.call('HMGET', KEYS[1], unpack(fields))
local set, gone = {}, {}
for index, field in ipairs(fields) do
  local standing, held = counts.read(read[index])
  local raw = counts.packed(standing - given[field], held)
  if raw then
    set[#set + 1], set[#set + 2] = field, raw
  else
    gone[#gone + 1] = field
  end
end
if #set > 0 then
  redis.call('HSET', KEYS[1], unpack(set))
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
allocations.write(name, kept)
return { 1 }
