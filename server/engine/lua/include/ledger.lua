--@include keys
--[[ The ledger: a stream with an entry for each step that moved money, numbered 0-1, 0-2, … without gaps. An entry is
one msgpack sequence: at_ms, cause (domain/ledger.py), reference, field, the balance's seven totals before and after. ]]
local NO_TOTALS = string.rep('\0', 49)

-- Sees the stream's type, before anything is written.
local function ledger_look()
  redis.call('XLEN', LEDGER)
end

local function ledger_entry(at_ms, cause, reference, field, before, after)
  return cmsgpack.pack(
    at_ms, cause, reference, field, before and string.sub(before, 1, 49) or NO_TOTALS, string.sub(after, 1, 49)
  )
end

local function ledger_write(entries)
  for _, entry in ipairs(entries) do
    redis.call('XADD', LEDGER, '0-*', 'e', entry)
  end
end
