--@include keys

--[[ What operators did: the stream hg:{n}:acts of the tenant's hash slot, beside the index by due, so that the line is
written by the step that it tells of and outlives the tenant. An entry is two msgpack sequences: `a`, the act as the
server put it (engine/acts.py), opaque here, and `e`, at_ms, the tenant's name, before, after. Its id begins with when
it was made, or, where the clock stepped back, with that of the entry before.
Entries leave when they are too old or too many; the whole stream leaves when nothing was added for as long. ]]
local MOST_ACTS, ACTS_KEPT_MS = '10000', 34560000000

local function acts_key()
  return string.sub(KEYS[4], 1, -4) .. 'acts'
end

-- When the last act was, seen before a step's first write. (In capitals the word would be a constant's name.)
local function last_act()
  local last = redis.call('XREVRANGE', acts_key(), '+', '-', 'count', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

local function write_act(act, last_ms, now, before, after)
  redis.call(
    'XADD', acts_key(), 'MAXLEN', '=', MOST_ACTS, string.format('%.0f-*', math.max(last_ms, now)),
    'a', act, 'e', cmsgpack.pack(now, MEMBER, before, after)
  )
  redis.call('XTRIM', acts_key(), 'MINID', string.format('%.0f', math.max(now - ACTS_KEPT_MS, 0)))
  redis.call('PEXPIRE', acts_key(), string.format('%.0f', ACTS_KEPT_MS))
end
