--[[ A store in tables: the commands that the scripts and the engine use, a clock that is told, TTLs that can be told
not to count. What a call changes is noted, field by field, for whoever checks it.

Given `struct`, `cmsgpack` and what adds the commands of streams; returns what Python calls. ]]
local struct, cmsgpack, add_streams = ...

local keys, expires, now_ms, ttl_counts = {}, {}, 0, true
local changes, changed = {}, 0

-- Notes a change: h (hash field), s (string), e (a key whose time is over), z (member of a sorted set), x (entry of a
-- stream), t (stream trimmed), with the new value; false where it is gone.
local function note(kind, key, field, value)
  changes[changed + 1], changes[changed + 2], changes[changed + 3], changes[changed + 4] = kind, key, field, value
  changed = changed + 4
end

local function drop(key)
  local entry = keys[key]
  keys[key], expires[key] = nil, nil
  if entry.kind == 'string' then
    note('e', key, '', false)
  end
end

local function now()
  return now_ms
end

local function find(key, kind)
  local entry = keys[key]
  if not entry then
    return nil
  end
  if ttl_counts and expires[key] and expires[key] <= now_ms then
    drop(key)
    return nil
  end
  if kind and entry.kind ~= kind then
    error('WRONGTYPE Operation against a key holding the wrong kind of value', 0)
  end
  return entry
end

local function find_or_make(key, kind, content)
  local entry = find(key, kind)
  if not entry then
    entry = content
    entry.kind = kind
    keys[key] = entry
  end
  return entry
end

local function text(value)
  if type(value) ~= 'string' then
    error('a script stores a ' .. type(value) .. ', and a store would choose how to spell it')
  end
  return value
end

local command = {}

function command.GET(key)
  local entry = find(key, 'string')
  return entry and entry.value or false
end

function command.MGET(...)
  local values = { ... }
  for index, key in ipairs(values) do
    values[index] = command.GET(key)
  end
  return values
end

function command.SET(key, value, ...)
  local options = { ... }
  local entry = find(key)
  local at, ttl, keeps = 1, nil, false
  while options[at] do
    if options[at] == 'NX' then
      if entry then
        return false
      end
    elseif options[at] == 'PX' then
      at = at + 1
      ttl = tonumber(options[at])
      assert(ttl > 0 and ttl % 1 == 0, 'a TTL that is none')
    elseif options[at] == 'KEEPTTL' then
      keeps = true
    else
      error('SET: an option that is not simulated')
    end
    at = at + 1
  end
  keys[key] = { kind = 'string', value = text(value) }
  if not keeps then
    expires[key] = ttl and now_ms + ttl or nil
  end
  note('s', key, '', value)
  return { ok = 'OK' }
end

function command.PEXPIRE(key, ttl)
  if not find(key) then
    return 0
  end
  expires[key] = now_ms + tonumber(ttl)
  return 1
end

function command.PTTL(key)
  if not find(key) then
    return -2
  end
  return expires[key] and math.max(expires[key] - now_ms, 0) or -1
end

function command.HGET(key, field)
  local entry = find(key, 'hash')
  return entry and entry.fields[field] or false
end

function command.HMGET(key, ...)
  local entry, values = find(key, 'hash'), { ... }
  for index = 1, select('#', ...) do
    values[index] = entry and entry.fields[values[index]] or false
  end
  return values
end

function command.HLEN(key)
  local entry = find(key, 'hash')
  return entry and entry.count or 0
end

function command.HKEYS(key)
  local entry, names = find(key, 'hash'), {}
  for field in pairs(entry and entry.fields or {}) do
    names[#names + 1] = field
  end
  table.sort(names)
  return names
end

function command.HGETALL(key)
  local entry, names, values = find(key, 'hash'), command.HKEYS(key), {}
  for index, field in ipairs(names) do
    values[2 * index - 1], values[2 * index] = field, entry.fields[field]
  end
  return values
end

function command.HSET(key, ...)
  local entry = find_or_make(key, 'hash', { fields = {}, count = 0 })
  local words, added = { ... }, 0
  assert(#words > 0 and #words % 2 == 0, 'HSET: a field without a value')
  for index = 1, #words, 2 do
    local field, value = text(words[index]), text(words[index + 1])
    if not entry.fields[field] then
      added = added + 1
    end
    entry.fields[field] = value
    note('h', key, field, value)
  end
  entry.count = entry.count + added
  return added
end

function command.HDEL(key, ...)
  local entry, gone = find(key, 'hash'), 0
  for _, field in ipairs({ ... }) do
    if entry and entry.fields[field] then
      entry.fields[field], gone = nil, gone + 1
      note('h', key, field, false)
    end
  end
  if entry then
    entry.count = entry.count - gone
    if entry.count == 0 then
      keys[key], expires[key] = nil, nil
    end
  end
  return gone
end

-- Sorted sets: `scores` by member, `order` the members by score, then by bytes.

local function place_of(entry, member, score)
  local order, scores = entry.order, entry.scores
  local low, high = 1, #order + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local other = order[middle]
    if scores[other] < score or (scores[other] == score and other < member) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function spelled(score)
  return string.format('%.17g', score)
end

local function put(entry, key, member, score)
  local before = entry.scores[member]
  if before then
    table.remove(entry.order, place_of(entry, member, before))
  end
  table.insert(entry.order, place_of(entry, member, score), member)
  entry.scores[member] = score
  note('z', key, member, score)
end

function command.ZADD(key, ...)
  local words = { ... }
  local option = (words[1] == 'NX' or words[1] == 'XX') and table.remove(words, 1)
  assert(#words > 0 and #words % 2 == 0, 'ZADD: a score without a member')
  if option == 'XX' and not find(key, 'zset') then
    return 0
  end
  local entry, added = find_or_make(key, 'zset', { scores = {}, order = {} }), 0
  for index = 1, #words, 2 do
    local score, member = assert(tonumber(text(words[index]))), text(words[index + 1])
    local known = entry.scores[member]
    if (option == 'NX' and not known) or (option == 'XX' and known) or not option then
      put(entry, key, member, score)
      added = added + (known and 0 or 1)
    end
  end
  return added
end

function command.ZREM(key, member)
  local entry = find(key, 'zset')
  local before = entry and entry.scores[member]
  if not before then
    return 0
  end
  table.remove(entry.order, place_of(entry, member, before))
  entry.scores[member] = nil
  note('z', key, member, false)
  if #entry.order == 0 then
    keys[key] = nil
  end
  return 1
end

function command.ZSCORE(key, member)
  local entry = find(key, 'zset')
  return entry and entry.scores[member] and spelled(entry.scores[member]) or false
end

function command.ZMSCORE(key, ...)
  local found = { ... }
  for index, member in ipairs(found) do
    found[index] = command.ZSCORE(key, member)
  end
  return found
end

function command.ZRANGE(key, first, last, with_scores)
  local entry, found = find(key, 'zset'), {}
  local order = entry and entry.order or {}
  first, last = tonumber(first), tonumber(last)
  first = first < 0 and math.max(#order + first, 0) or first
  for index = first + 1, last < 0 and #order + 1 + last or math.min(last + 1, #order) do
    found[#found + 1] = order[index]
    if with_scores then
      found[#found + 1] = spelled(entry.scores[order[index]])
    end
  end
  return found
end

function command.ZCARD(key)
  local entry = find(key, 'zset')
  return entry and #entry.order or 0
end

local function bound(word)
  return word == '-inf' and -math.huge or word == '+inf' and math.huge or tonumber(word)
end

function command.ZRANGEBYSCORE(key, lowest, highest, ...)
  local entry, found, words = find(key, 'zset'), {}, { ... }
  local with_scores = words[1] == 'WITHSCORES' and table.remove(words, 1)
  lowest, highest = bound(lowest), bound(highest)
  local skipped, most = tonumber(words[2] or 0), tonumber(words[3] or math.huge)
  for _, member in ipairs(entry and entry.order or {}) do
    local score = entry.scores[member]
    if score >= lowest and score <= highest then
      skipped = skipped - 1
      if skipped < 0 and most > 0 then
        most = most - 1
        found[#found + 1] = member
        if with_scores then
          found[#found + 1] = spelled(score)
        end
      end
    end
  end
  return found
end

-- What is below a score, as the scripts ask.
function command.ZCOUNT(key, lowest, below)
  assert(lowest == '-inf' and string.sub(below, 1, 1) == '(', 'ZCOUNT: words that are not simulated')
  local entry = find(key, 'zset')
  return entry and place_of(entry, '', tonumber(string.sub(below, 2))) - 1 or 0
end

add_streams(command, { find = find, find_or_make = find_or_make, text = text, note = note, now = now })

-- Nobody listens.
function command.PUBLISH()
  return 0
end

function command.DEL(key)
  local entry = find(key)
  if entry and entry.kind == 'string' then
    note('s', key, '', false)
  end
  keys[key], expires[key] = nil, nil
  return entry and 1 or 0
end

command.UNLINK = command.DEL

-- As SCAN with a pattern that is a prefix: what is there all the while is found once, a few keys at a time.
local SCANNED, cursors = 3, {}
function command.SCAN(cursor, _, pattern)
  local prefix, after = string.gsub(string.sub(pattern, 1, -2), '\\(.)', '%1'), cursors[tonumber(cursor)] or ''
  local names, found = command.KEYS(), {}
  table.sort(names)
  for _, key in ipairs(names) do
    if key > after and string.sub(key, 1, #prefix) == prefix then
      if #found == SCANNED then
        cursors[#cursors + 1] = found[SCANNED]
        return { tostring(#cursors), found }
      end
      found[#found + 1] = key
    end
  end
  return { '0', found }
end

function command.EXISTS(key)
  return find(key) and 1 or 0
end

function command.KEYS()
  local names = {}
  for key in pairs(keys) do
    names[#names + 1] = key
  end
  local present = {}
  for _, key in ipairs(names) do
    if find(key) then
      present[#present + 1] = key
    end
  end
  return present
end

function command.TYPE(key)
  return keys[key] and keys[key].kind or 'none'
end

function command.TIME()
  return { string.format('%.0f', math.floor(now_ms / 1000)), string.format('%.0f', now_ms % 1000 * 1000) }
end

-- Scripts

local function run_command(name, ...)
  local made = command[name]
  if not made then
    error('a command that is not simulated: ' .. tostring(name))
  end
  return made(...)
end

-- A pcall fails here as a call does: what a script lets pass, it must expect of real stores alone.
local redis = { call = run_command, pcall = run_command }

local room = setmetatable({
  redis = redis, struct = struct, cmsgpack = cmsgpack, math = math, string = string, table = table, error = error,
  ipairs = ipairs, next = next, pairs = pairs, select = select, tonumber = tonumber, tostring = tostring, type = type,
  unpack = unpack, KEYS = {}, ARGV = {},
}, {
  __index = function(_, name)
    error('a script reads the global ' .. tostring(name))
  end,
  __newindex = function(_, name)
    error('a script writes the global ' .. tostring(name))
  end,
})

local scripts = {}

local function load_script(name, source)
  scripts[name] = setfenv(assert(loadstring(string.gsub(source, '^#!lua[^\n]*', '', 1), '@' .. name)), room)
end

-- A script's reply as values: integers, strings and booleans, as they would arrive.
local function run(name, key_count, ...)
  local words = { ... }
  room.KEYS, room.ARGV = { unpack(words, 1, key_count) }, { unpack(words, key_count + 1) }
  changed = 0
  local reply = scripts[name]()
  for index = 1, #reply do
    local value = reply[index]
    if type(value) == 'number' and value % 1 ~= 0 then
      error('a reply with a fraction, which would arrive cut off')
    end
  end
  return unpack(reply)
end

-- What a script or a command changed: kind, key, field, value, in turn.
local function changes_made()
  return unpack(changes, 1, changed)
end

local function call(name, ...)
  changed = 0
  return redis.call(name, ...)
end

local function set_time(to_ms, counts)
  now_ms, ttl_counts = to_ms, counts
end

local function flush()
  keys, expires, changed, cursors = {}, {}, 0, {}
end

return {
  load = load_script, run = run, changes = changes_made, call = call, set_time = set_time, flush = flush,
}
