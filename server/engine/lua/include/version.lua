-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end
