--@include endings
--@include count_layout

-- New raw value (false: nothing is left). Places are given back when the hold ends; after a final settle `stands` more
-- units stand, beyond the limit too, because they exist.
local function count_finish(raw, ending, live, amount, stands)
  local kept = counts_kept()
  local standing, held = kept.read(raw)
  if live and ending ~= REPORT then
    held = held - amount
  end
  return kept.packed(standing + stands, held)
end
