#!lua
--[[ Changes an account record by compare-and-set, adds units to balances, books use of quotas, or several of these, in
one step.

Keys   1 cells (hash)  2 account (string)  3 ids of writes already made (hash)
Args   1 msgpack sequence: replaces the record (1 or 0), expected version, record, write id ('': the version alone
         guards), fingerprint, number of grants, per grant: field, units; then now_ms (0: ask the store), number of
         uses, per use: field, limit, terms, cycle (quota.lua), units
Reply  {1, account} written; {2, account} this id was written before, with equal content; {3, account} the version is
       another one; {4, account} this id was written before with other content; {5, account} a balance would pass
       2^53 - 1.
Writes cells, account, ids. Ids stay as long as the account.
Example {1, '{"plan":"free",...}'} ]]
--@include clock
--@include balance_change
--@include quota
--@include quota_finish
--@include version

local args = { cmsgpack.unpack(ARGV[1]) }
local replaces, expected, record, write_id, fingerprint = args[1] == 1, args[2], args[3], args[4], args[5]
local grants = args[6]
local USE_SIZE = 5
local uses_at = 8 + grants * 2
local uses = args[uses_at]

local stored = redis.call('GET', KEYS[2]) or ''
local known = redis.call('HGET', KEYS[3], write_id)
if known and write_id ~= '' then
  return { known == fingerprint and 2 or 4, stored }
end
local fields = { 'v' }
for grant = 1, grants do
  fields[grant + 1] = args[5 + grant * 2]
end
for use = 1, uses do
  fields[grants + 1 + use] = args[uses_at + 1 + (use - 1) * USE_SIZE]
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
local now = uses > 0 and clock(args[uses_at - 1])
for use = 1, uses do
  local field, limit, terms, cycle, units = unpack(args, uses_at + 1 + (use - 1) * USE_SIZE, uses_at + use * USE_SIZE)
  local _, _, _, cell = quota_check(read[grants + 1 + use], now, 0, 0, limit, terms)
  set[#set + 1] = field
  set[#set + 1] = quota_finish(cell, SETTLE, false, 0, now, cycle, 0, units, now)
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
