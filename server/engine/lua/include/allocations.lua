--@include keys

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
