#!lua
--[[ Changes an account record by compare-and-set, adds units to balances, or both, in one step.

Keys   1 cells (hash)  2 account (string)  3 ids of writes already made (hash)
Args   1 msgpack sequence: replaces the record (1 or 0), expected version, record, write id ('': the version alone
         guards), fingerprint, number of grants, per grant: field, units
Reply  {1, account} written; {2, account} this id was written before, with equal content; {3, account} the version is
       another one; {4, account} this id was written before with other content; {5, account} a balance would pass
       2^53 - 1.
Writes cells, account, ids. Ids stay as long as the account.
Example {1, '{"plan":"free",...}'} ]]
--[[ balance: prepaid units. Twin of server/domain/limits/balance.py. A cell is seven running totals of 7 bytes:
granted, reversed, charged, held, expired, uncollected, debt.
granted - reversed + debt = available + held + charged + expired. Subtracted in an order that keeps every
intermediate result exact. ]]
local BALANCE, BALANCE_SIZE = '>I7I7I7I7I7I7I7', 49

-- {granted, reversed, charged, held, expired, uncollected, debt}, available
local function balance_open(raw)
  if not raw then
    return { 0, 0, 0, 0, 0, 0, 0 }, 0
  end
  if #raw ~= BALANCE_SIZE then
    error('CORRUPT a balance cell of ' .. #raw .. ' bytes')
  end
  local b = { struct.unpack(BALANCE, raw) }
  return b, b[1] - b[2] - b[5] - b[3] + b[7] - b[4]
end

local function balance_packed(b)
  if math.min(unpack(b)) < 0 or math.max(unpack(b)) >= 9007199254740992 then
    error('CORRUPT a balance outside 0 to 2^53 - 1')
  end
  return struct.pack(BALANCE, b[1], b[2], b[3], b[4], b[5], b[6], b[7])
end
-- The account's version as stored, 0 for a tenant without an account.
local function account_version(raw)
  return raw and (tonumber(raw) or error('CORRUPT an account version')) or 0
end

local args = { cmsgpack.unpack(ARGV[1]) }
local replaces, expected, record, write_id, fingerprint = args[1] == 1, args[2], args[3], args[4], args[5]
local grants = args[6]

local stored = redis.call('GET', KEYS[2]) or ''
local known = redis.call('HGET', KEYS[3], write_id)
if known and write_id ~= '' then
  return { known == fingerprint and 2 or 4, stored }
end
local fields = { 'v' }
for grant = 1, grants do
  fields[grant + 1] = args[5 + grant * 2]
end
local read = redis.call('HMGET', KEYS[1], unpack(fields))
if replaces and account_version(read[1]) ~= expected then
  return { 3, stored }
end

local set = {}
for grant = 1, grants do
  local b = balance_open(read[grant + 1])
  local units = args[6 + grant * 2]
  b[1], b[7] = b[1] + units, b[7] - math.min(b[7], units) -- what comes in pays back what is owed
  if b[1] >= 9007199254740992 then
    return { 5, stored }
  end
  set[#set + 1] = fields[grant + 1]
  set[#set + 1] = balance_packed(b)
end
if replaces then
  set[#set + 1] = 'v'
  set[#set + 1] = string.format('%.0f', expected + 1)
  redis.call('SET', KEYS[2], record)
  stored = record
end
if #set > 0 then
  redis.call('HSET', KEYS[1], unpack(set))
end
if write_id ~= '' then
  redis.call('HSET', KEYS[3], write_id, fingerprint)
end
return { 1, stored }
