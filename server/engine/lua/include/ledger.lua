--@include keys

--[[ The ledger: a stream with an entry for each step that moved money, numbered 0-1, 0-2, … without gaps. An entry is
one msgpack sequence: at_ms, cause (domain/ledger.py), reference, field, the balance's seven totals before and after.

`entries` have the same, with the balance's raw values (false or nil: there was none). That the key is a stream was
seen before the step's first write. ]]
local function write_ledger(entries)
  for index = 1, #entries do
    local at_ms, cause, reference, field, before, after = unpack(entries[index], 1, 6)
    local totals = before and string.sub(before, 1, 49) or string.rep('\0', 49)
    redis.call('XADD', tenant_key('ledger'), '0-*', 'e', cmsgpack.pack(
      at_ms, cause, reference, field, totals, string.sub(after, 1, 49)
    ))
  end
end
