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
