--@include balance_grants

-- The param of a take that grew from `amount` by `more`: the old draws, then the new ones (hold_layout.lua).
local function params_joined(param, amount, new, more)
  if type(param) ~= 'string' and type(new) ~= 'string' then
    return param
  end
  local function draws_of(packed, units)
    local draws = type(packed) == 'string' and { cmsgpack.unpack(packed) } or { packed }
    for at = 4, #draws, 3 do
      units = units - draws[at]
    end
    -- What no draw explains was there before grants were kept apart, or has been charged beyond the hold.
    if units > 0 then
      local n = #draws
      draws[n + 1], draws[n + 2], draws[n + 3] = MONTHLY, NEVER, units
    end
    return draws
  end
  local joined, added = draws_of(param, amount), draws_of(new, more)
  for at = 2, #added do
    joined[#joined + 1] = added[at]
  end
  return cmsgpack.pack(unpack(joined))
end
