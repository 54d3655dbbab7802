#!lua flags=no-writes
--[[ Reads what stands under a tenant and an id.

Keys   1 unused  2 account (string)  3 unused  4 unused  5 hold (string)
Args   1 msgpack sequence: now_ms (0: ask the store)
Reply  {now, account or '', hold or ''}
Writes nothing.
Example {1773144000000, '', ''} ]]
--@include clock

local args = { cmsgpack.unpack(ARGV[1]) }
return { clock(args[1]), redis.call('GET', KEYS[2]) or '', redis.call('GET', KEYS[5]) or '' }
