-- Keys that a script finds in its own data. KEYS[1] is hg:{policy/tenant}:cells; all else of the tenant starts
-- with the same tag. Mirrors server/engine/keys.py, and nothing else in Lua builds a key.
local PREFIX = string.sub(KEYS[1], 1, -6)
local LEDGER, TRIMMED, GRANTS = PREFIX .. 'ledger', PREFIX .. 'trimmed', PREFIX .. 'grants'

local function hold_key(id)
  return PREFIX .. 'h:' .. id
end

local function note_key()
  return PREFIX .. 'note'
end

-- '' stands for the standing cells, anything else for the windows of one scope.
local function cell_key(scope)
  if scope == '' then
    return KEYS[1]
  end
  return PREFIX .. 'w:' .. string.sub(scope, 2)
end
