#!lua flags=no-writes
--[[ Reads what stands under a tenant and an id.

Keys   1 unused  2 account (string)  3 unused  4 unused  5 hold (string)
Args   1 msgpack sequence: now_ms (0: ask the store)
Reply  {now, account or '', hold or ''}
Writes nothing.
Example {1773144000000, '', ''} ]]
-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local args = { cmsgpack.unpack(ARGV[1]) }
return { clock(args[1]), redis.call('GET', KEYS[2]) or '', redis.call('GET', KEYS[5]) or '' }
