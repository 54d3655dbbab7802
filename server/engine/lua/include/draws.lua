--[[ What a hold remembers of its draws from a balance that keeps grants apart, so that what it does not use returns
where it came from: in place of the take's debt bound a msgpack sequence, 1 the bound, then in turn source, expires_ms,
units. What is charged comes off its front. ]]

-- A take's param, with what was drawn from the cell of this field.
local function param_with_draws(param, field)
  local draws = DRAWS[field]
  if not draws then
    return param
  end
  return cmsgpack.pack(param, unpack(draws))
end

-- Packed takes with their draws.
local function takes_with_draws(takes)
  local values = { cmsgpack.unpack(takes) }
  for at = 1, #values, TAKE_SIZE do
    if values[at] == BALANCE_KIND and values[at + 4] > 0 then
      values[at + 8] = param_with_draws(values[at + 8], values[at + 3])
    end
  end
  return cmsgpack.pack(unpack(values))
end

-- The param of a take that grew from `amount` by `more`: the old draws, then the new ones.
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
