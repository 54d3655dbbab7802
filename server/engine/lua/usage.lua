#!lua flags=no-writes
--[[ Looks at every check of a plan and takes nothing: CHECK_ONLY, Estimate, GetUsage.

Keys   1 cells (hash)  2 account (string)  3-5 unused  6.. windows (hash), one per scope, in the plan's order
Args   1 plan (checks.lua)  2 when the cells of quotas are asked for, anything
Reply  {0, now, rows} looked, and behind them the cell of each quota ('': none), if asked for; {3, now, account} planned
       for another version or time; {4, now} holds are overdue: call reap, then ask again. rows: msgpack sequence, 3 per
       check (checks.lua).
Writes nothing.
Example {0, 1773144000000, <0,0,0>} ]]
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
local reply = { 0, now, (check_all(plan, standing, now)) }
if ARGV[2] then
  local check = SCOPES + 3 + plan[SCOPES] * SCOPE_SIZE + plan[CHECKS]
  for number = 1, plan[STANDING] do
    if plan[check] == 6 then
      reply[#reply + 1] = standing[number + 2] or ''
    end
    check = check + CHECK_SIZE
  end
end
return reply
