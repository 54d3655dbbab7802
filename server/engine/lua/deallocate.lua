#!lua flags=allow-oom
--[[ Gives back a standing allocation.

Keys   1 cells (hash)
Args   1 msgpack sequence: name, cell ('': of every limit; else of cells with this name alone)
Reply  {1} given back; {0} nothing stands under this name.
Writes cells, allocations (allocations.lua).
Example {1} ]]
--@include allocations
--@include count_layout

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
