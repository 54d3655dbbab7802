#!lua flags=allow-oom
--[[ The right to tell the webhook, which one process has at a time.

Keys   1 lease (string)  2 since (string)
Args   1 msgpack sequence: now_ms (0: ask the store), owner, lasts_ms (0: give it back)
Reply  {1, since_ms} the owner has it, or has given it back; since: when there first was a webhook; {0} another has it.
Writes since, lease.
Example {1, '1773144000000'} ]]
--@include clock

local args = { cmsgpack.unpack(ARGV[1]) }
local now, owner, lasts = clock(args[1]), args[2], args[3]
local holder, since = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if holder and holder ~= owner then
  return { 0 }
end
if not since then
  since = string.format('%.0f', now)
  redis.call('SET', KEYS[2], since)
end
if lasts > 0 then
  redis.call('SET', KEYS[1], owner, 'PX', string.format('%.0f', lasts))
else
  redis.call('DEL', KEYS[1])
end
return { 1, since }
