--[[ What a hold remembers of its draws from a balance that keeps grants apart, so that what it does not use returns
where it came from: in place of the take's debt bound a msgpack sequence, 1 the bound, then in turn source, expires_ms,
units. What is charged comes off its front. ]]

-- A take's param, with what was drawn from the cell of this field.
local function param_with_draws(param, field)
  local draws = DRAWS and DRAWS[field]
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
