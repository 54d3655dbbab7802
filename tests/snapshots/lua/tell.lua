#!lua flags=allow-oom
--[[ Moves a tenant's webhook cursor to a note that was told; when that was the last, the tenant leaves the index.

Keys   1 cells, which names the tenant  2-3 unused  4 index of tenants by due, which names that of notes
Args   1 msgpack sequence: the cursor as it was read ('': none), id of the note that was told
Reply  {1} moved; {0} the cursor is elsewhere.
Writes told, the index of tenants with notes to tell.
Example {1} ]]
-- A key that a script finds in its own data: what is behind the tenant's tag. KEYS[1] is hg:{policy/tenant}:cells; all
-- else of the tenant starts with the same tag. Mirrors server/engine/keys.py, and nothing else in Lua builds a key.
local function tenant_key(rest)
  return string.sub(KEYS[1], 1, -6) .. rest
end

-- What is published when there are new notes, with the tenant's name; and, with the name of a process behind it, when
-- the turn of one of its open calls has come, with the tenant's name and the hold's id.
local NOTED_CHANNEL, TURN_CHANNEL = 'hg:noted', 'hg:turn:'

-- The index of the slot's tenants with notes for the webhook, beside that by due, and the tenant's name in both.
local NOTED_KEY = string.sub(KEYS[4], 1, -4) .. 'noted'
local MEMBER = string.sub(KEYS[1], 5, -8)

--[[ Notes for the tenant's people, in the stream hg:{p/t}:note: each a list of fields with values (engine/notes.py).
The oldest leave when there are more than this. ]]
local MOST_NOTES = '1000'
local FALL_SIZE = 3

-- What there is to do with notes: look, write. Made when asked for: few steps reach a threshold.
local function notes_kept()
  -- That both keys have their types is seen before a step's first write.
  local function notes_look()
    redis.call('XLEN', tenant_key('note'))
    redis.call('ZCARD', NOTED_KEY)
  end

  -- Writes the thresholds that a step crossed: `crossings` has field, start, end, percent, limit, used of each, or for
  -- a balance field, mark, left. The tenant is listed for the webhook by its oldest note that was not told, and whoever
  -- watches is woken; a store user who may not PUBLISH only makes watchers slow.
  local function notes_write(crossings, now)
    for index = 1, #crossings do
      local crossing = crossings[index]
      local names = #crossing == FALL_SIZE and { 'mark', 'left' } or { 'cycle', 'ends', 'percent', 'limit', 'used' }
      local fields = {}
      for place = 1, #names do
        fields[place * 2 - 1], fields[place * 2] = names[place], string.format('%.0f', crossing[place + 1])
      end
      redis.call(
        'XADD', tenant_key('note'), 'MAXLEN', '=', MOST_NOTES, '*',
        'kind', 'threshold', 'at', string.format('%.0f', now), 'cell', crossing[1], unpack(fields)
      )
    end
    redis.call('ZADD', NOTED_KEY, 'NX', string.format('%.0f', now), MEMBER)
    redis.pcall('PUBLISH', NOTED_CHANNEL, MEMBER)
  end

  return { look = notes_look, write = notes_write }
end

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
