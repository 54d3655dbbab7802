--@include balance_grants

-- The param of a take that grew from `amount` by `more`: the old draws, then the new ones (hold_layout.lua).
local function params_joined(param, amount, new, more)
  if type(param) ~= 'string' and type(new) ~= 'string' then
    return param
  end
  local function values_of(packed)
    return type(packed) == 'string' and { cmsgpack.unpack(packed) } or { packed }
  end
  local joined, added = values_of(param), values_of(new)
  if not (joined[2] or added[2]) then
    return param -- marks, and no draws
  end
  local function explain(draws, units)
    for at = 4, #draws, 3 do
      units = units - draws[at]
    end
    -- What no draw explains was there before grants were kept apart, or has been charged beyond the hold.
    if units > 0 then
      local n = #draws
      draws[n + 1], draws[n + 2], draws[n + 3] = MONTHLY, NEVER, units
    end
  end
  explain(joined, amount)
  explain(added, more)
  for at = 2, #added do
    joined[#joined + 1] = added[at]
  end
  return cmsgpack.pack(unpack(joined))
end
