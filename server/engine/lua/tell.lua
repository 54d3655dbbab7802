#!lua flags=allow-oom
--[[ Moves a tenant's webhook cursor to a note that was told; when that was the last, the tenant leaves the index.

Keys   1 cells, which names the tenant  2-3 unused  4 index of tenants by due, which names that of notes
Args   1 msgpack sequence: the cursor as it was read ('': none), id of the note that was told
Reply  {1} moved; {0} the cursor is elsewhere.
Writes told, the index of tenants with notes to tell.
Example {1} ]]
--@include notes

local before, id = cmsgpack.unpack(ARGV[1])
local told, notes, index = tenant_key('told'), tenant_key('note'), NOTED_KEY
local cursor = redis.call('GET', told) or ''
local following = redis.call('XRANGE', notes, '(' .. id, '+', 'COUNT', 1)[1]
redis.call('ZCARD', index)
if cursor ~= before then
  return { 0 }
end
redis.call('SET', told, id)
if following then
  -- An entry's id begins with when it was made.
  redis.call('ZADD', index, string.match(following[1], '^%d+'), MEMBER)
else
  redis.call('ZREM', index, MEMBER)
end
return { 1 }
