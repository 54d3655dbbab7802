-- A key that a script finds in its own data: what is behind the tenant's tag. KEYS[1] is hg:{policy/tenant}:cells; all
-- else of the tenant starts with the same tag. Mirrors server/engine/keys.py, and nothing else in Lua builds a key.
local function tenant_key(rest)
  return string.sub(KEYS[1], 1, -6) .. rest
end
