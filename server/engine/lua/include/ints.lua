-- Renders an integer for a command. tostring() and .. turn large numbers into exponents.
local function int(n)
  return string.format('%.0f', n)
end
