#!lua flags=no-writes
--[[ Looks at every check of a plan and takes nothing: CHECK_ONLY, Estimate, GetUsage.

Keys   1 cells (hash)  2 account (string)  3-5 unused  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)  2 when the cells of quotas are asked for, anything
Reply  {0, now, rows} looked, and behind them the cell of each quota ('': none), if asked for; {3, now, account} planned
       for another version or time; {4, now} holds are overdue: call reap, then ask again. rows: msgpack array, 5 per
       check.
Writes nothing.
Example {0, 1773144000000, <10,0,0,0,0>} ]]
--@include clock
--@include checks

local plan = { cmsgpack.unpack(ARGV[1]) }
local now = clock(plan[1])
local standing = read_standing(plan)
if standing[2] and tonumber(standing[2]) <= now then
  return { 4, now }
end
if not is_current(plan, standing[1], now) then
  return { 3, now, redis.call('GET', KEYS[2]) or '' }
end
local reply = { 0, now, packed_rows((check_all(plan, standing, now))) }
if ARGV[2] then
  local at = SCOPES + 1 + plan[SCOPES] * SCOPE_SIZE
  for check = 1, plan[6] do
    if plan[at] == 6 then
      reply[#reply + 1] = standing[check + 2] or ''
    end
    at = at + CHECK_SIZE
  end
end
return reply
