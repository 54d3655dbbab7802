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
