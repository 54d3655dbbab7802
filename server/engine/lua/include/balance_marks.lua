-- Adds to `falls` (nil: none yet) the marks that a fall of what is left has reached, the highest first: field, mark,
-- left of each. Whoever rises above a mark may fall to it again, so nothing needs to be remembered.
local function marks_reached(falls, field, marks, first, before, after)
  for index = first, #marks do
    if before > marks[index] and after <= marks[index] then
      falls = falls or {}
      falls[#falls + 1] = { field, marks[index], after }
    end
  end
  return falls
end
