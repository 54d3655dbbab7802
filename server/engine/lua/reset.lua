#!lua flags=allow-oom
--[[ Forgets what a limit has counted. An operator's word.

Keys   1 cells (hash)  2 account (string)  3 unused  4 index of tenants by due (sorted set)  5 unused
       6 ids of writes already made (hash)  7 windows of the scope (hash)
Args   1 msgpack sequence: now_ms (0: ask the store), write id, fingerprint, field, of every scope (1 or 0), length of
         the window in ms (0: a quota), and of a quota: account version, start and end of the cycle
       2 the act (acts.lua)
Reply  {1, now, cells, counted} forgotten, in so many cells that had counted something; {2, now, cells, counted} it
       was before, under this id; {3, now, account} the account or the cycle is another one; {4, now} something is
       overdue: call reap, then ask again; {6, now} this id was used before for something else.
Writes cells or windows, ids, acts. A window's entries stay with nothing in them, so that a hold that made one settles
       in it, and not in a neighbour; what open holds keep of a quota stays held.
Example {1, 1773144000000, 1, 60} ]]
--@include clock
--@include acts
--@include quota_place
--@include window
--@include version

local args = { cmsgpack.unpack(ARGV[1]) }
local now, write_id, fingerprint, field, every, length = clock(args[1]), unpack(args, 2, 6)
local head = redis.call('HMGET', KEYS[1], 'v', 'due')
if head[2] and (tonumber(head[2]) or error('CORRUPT the earliest lease end')) <= now then
  return { 4, now }
end
local known = redis.call('HGET', KEYS[6], write_id)
if known then
  if string.sub(known, 1, #fingerprint) ~= fingerprint then
    return { 6, now }
  end
  return { 2, now, cmsgpack.unpack(string.sub(known, #fingerprint + 1)) }
end

local place, set, cells, counted = KEYS[1], {}, 0, 0
if length > 0 then
  place = KEYS[7]
  local raw = redis.call('HGET', place, field)
  if raw then
    counted = window_check(raw, now, 0, false, 0, length)
    cells = math.min(counted, 1)
    local parts = {}
    for entry = 1, #raw - WINDOW_TAIL, WINDOW_ENTRY do
      parts[#parts + 1] = string.sub(raw, entry, entry + 5) .. struct.pack('>I7', 0)
    end
    parts[#parts + 1] = struct.pack('>I7', 0) .. string.sub(raw, -6)
    set = { field, table.concat(parts) }
  end
else
  local version, start, stop = unpack(args, 7, 9)
  if account_version(head[1]) ~= version or now < start or now >= stop then
    return { 3, now, redis.call('GET', KEYS[2]) or '' }
  end
  local read = redis.call('HGETALL', KEYS[1])
  for index = 1, #read, 2 do
    local name, raw = read[index], read[index + 1]
    if name == field or (every == 1 and string.sub(name, 1, #field + 1) == field .. ':') then
      local at, found = quota_place(raw, start)
      if found then
        local _, _, limit, overage, grace, price, within, billed, graced, over, held = struct.unpack(QUOTA, raw, at)
        local used = within + billed + graced + over
        cells, counted = cells + math.min(used, 1), counted + used
        local entry = struct.pack(QUOTA, start, stop, limit, overage, grace, price, 0, 0, 0, 0, held, 0, 0)
        set[#set + 1] = name
        set[#set + 1] = string.sub(raw, 1, at - 1) .. entry .. string.sub(raw, at + QUOTA_SIZE)
      end
    end
  end
end
local acted_ms = last_act()

for index = 1, #set, 2 do
  redis.call('HSET', place, set[index], set[index + 1])
end
redis.call('HSET', KEYS[6], write_id, fingerprint .. cmsgpack.pack(cells, counted))
write_act(ARGV[2], acted_ms, now, string.format('%.0f', counted), '0')
return { 1, now, cells, counted }
