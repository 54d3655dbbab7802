--@include endings
--@include count

-- New raw value (false: nothing is left). Places are given back when the hold ends; after a final settle `stands` more
-- units stand, beyond the limit too, because they exist.
local function count_finish(raw, ending, live, amount, stands)
  local standing, held = count_read(raw)
  if live and ending ~= REPORT then
    held = held - amount
  end
  return count_packed(standing + stands, held)
end
