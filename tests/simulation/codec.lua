-- `struct` and `cmsgpack` as the stores' Lua has them, as far as the scripts use them. What the real ones let pass
-- silently is an error here: an integer that does not fit its bytes, a fraction, a number beyond 2^53.
local byte, char, floor, format, sub = string.byte, string.char, math.floor, string.format, string.sub
local EXACT = 9007199254740992

-- struct: only big-endian unsigned integers (`I1` to `I7`) and texts of a fixed length (`c1`). Each format is compiled
-- once.

local function parts_of(text)
  local parts = {}
  assert(sub(text, 1, 1) == '>' and string.find(text, '^>[Ic%d]+$'), 'struct: a format that is not simulated: ' .. text)
  for kind, width in string.gmatch(text, '([Ic])(%d+)') do
    parts[#parts + 1] = { kind = kind, width = tonumber(width) }
  end
  return parts
end

local function check(value, kind, width)
  if kind == 'c' then
    assert(#value == width, 'struct: a text of another length')
  elseif value < 0 or value >= math.min(256 ^ width, EXACT) or value % 1 ~= 0 then
    error(format('struct: %.17g does not fit into %d bytes', value, width), 3)
  end
end

local function packer(text)
  local names, checks, pieces = {}, {}, {}
  for index, part in ipairs(parts_of(text)) do
    names[index] = 'v' .. index
    checks[index] = format('check(v%d, %q, %d)', index, part.kind, part.width)
    local bytes = {}
    for place = part.width - 1, 1, -1 do
      bytes[#bytes + 1] = format('floor(v%d / %.0f) %% 256', index, 256 ^ place)
    end
    bytes[#bytes + 1] = format('v%d %% 256', index)
    pieces[index] = part.kind == 'c' and 'v' .. index or 'char(' .. table.concat(bytes, ', ') .. ')'
  end
  local code = format(
    'local floor, char, check = ...\nreturn function(%s)\n%s\nreturn %s\nend',
    table.concat(names, ', '), table.concat(checks, ' '), table.concat(pieces, ' .. ')
  )
  return loadstring(code)(floor, char, check)
end

local function unpacker(text)
  local names, values, size = {}, {}, 0
  for index, part in ipairs(parts_of(text)) do
    local terms = {}
    for place = 1, part.width do
      local name = 'b' .. size + place
      names[#names + 1] = name
      terms[place] = place < part.width and format('%s * %.0f', name, 256 ^ (part.width - place)) or name
    end
    local from = 'from + ' .. size
    local cut = format('sub(raw, %s, %s + %d)', from, from, part.width - 1)
    values[index] = part.kind == 'c' and cut or table.concat(terms, ' + ')
    size = size + part.width
  end
  local code = format(
    'local byte, sub = ...\nreturn function(raw, at)\nlocal from = at or 1\nlocal %s = byte(raw, from, from + %d)\n'
      .. 'if not %s then error("struct: data string too short", 2) end\nreturn %s, from + %d\nend',
    table.concat(names, ', '), size - 1, names[size], table.concat(values, ', '), size
  )
  return loadstring(code)(byte, sub)
end

local packers, unpackers = {}, {}
local struct = {}

function struct.pack(text, ...)
  local made = packers[text]
  if not made then
    made = packer(text)
    packers[text] = made
  end
  return made(...)
end

function struct.unpack(text, raw, at)
  local made = unpackers[text]
  if not made then
    made = unpacker(text)
    unpackers[text] = made
  end
  return made(raw, at)
end

-- cmsgpack: integers, strings, booleans, nil and arrays.

local function big_endian(value, width)
  local bytes = {}
  for place = width, 1, -1 do
    bytes[place] = char(value % 256)
    value = floor(value / 256)
  end
  return table.concat(bytes)
end

local function integer(value)
  if value ~= floor(value) or value >= EXACT or value <= -EXACT then
    error(format('cmsgpack: %.17g is no exact integer', value), 3)
  end
  if value >= 0 then
    if value <= 0x7f then
      return char(value)
    elseif value <= 0xff then
      return char(0xcc, value)
    elseif value <= 0xffff then
      return char(0xcd, floor(value / 256), value % 256)
    elseif value <= 0xffffffff then
      return '\206' .. big_endian(value, 4)
    end
    return '\207' .. big_endian(value, 8)
  elseif value >= -32 then
    return char(256 + value)
  elseif value >= -128 then
    return char(0xd0, 256 + value)
  elseif value >= -32768 then
    return '\209' .. big_endian(65536 + value, 2)
  elseif value >= -2147483648 then
    return '\210' .. big_endian(4294967296 + value, 4)
  end
  -- In two halves: a double has no room for 2^64 minus a little.
  local low = value % 4294967296
  return '\211' .. big_endian(4294967296 + (value - low) / 4294967296, 4) .. big_endian(low, 4)
end

local encode

local function array(values)
  local parts = {}
  for index = 1, #values do
    parts[index] = encode(values[index])
  end
  local head = #values <= 15 and char(0x90 + #values) or '\220' .. big_endian(#values, 2)
  return head .. table.concat(parts)
end

function encode(value)
  local kind = type(value)
  if kind == 'number' then
    return integer(value)
  elseif kind == 'string' then
    local size = #value
    if size < 32 then
      return char(0xa0 + size) .. value
    elseif size <= 0xff then
      return char(0xd9, size) .. value
    elseif size <= 0xffff then
      return char(0xda, floor(size / 256), size % 256) .. value
    end
    return '\219' .. big_endian(size, 4) .. value
  elseif kind == 'table' then
    return array(value)
  elseif kind == 'boolean' then
    return value and '\195' or '\194'
  end
  return '\192'
end

local cmsgpack = {}

function cmsgpack.pack(...)
  local count = select('#', ...)
  if count == 0 then
    error('bad argument #0 to pack') -- as the real one says
  end
  local parts = { ... }
  for index = 1, count do
    parts[index] = encode(parts[index])
  end
  return table.concat(parts)
end

local unsigned = { [0xcc] = 1, [0xcd] = 2, [0xce] = 4, [0xcf] = 8 }
local signed = { [0xd0] = 1, [0xd1] = 2, [0xd2] = 4, [0xd3] = 8 }
local raws = { [0xd9] = 1, [0xda] = 2, [0xdb] = 4 }

local function number_at(raw, at, width)
  local value = 0
  for place = at, at + width - 1 do
    value = value * 256 + byte(raw, place)
  end
  return value
end

-- The value that begins at `at`, and where the next one does.
local function decode(raw, at)
  local head = byte(raw, at)
  if head <= 0x7f then
    return head, at + 1
  elseif head >= 0xa0 and head <= 0xbf then
    local last = at + head - 0xa0
    return sub(raw, at + 1, last), last + 1
  elseif unsigned[head] then
    local width = unsigned[head]
    return number_at(raw, at + 1, width), at + 1 + width
  elseif raws[head] then
    local width = raws[head]
    local from = at + 1 + width
    local size = number_at(raw, at + 1, width)
    return sub(raw, from, from + size - 1), from + size
  elseif head >= 0xe0 then
    return head - 256, at + 1
  elseif head == 0xc2 or head == 0xc3 then
    return head == 0xc3, at + 1
  elseif signed[head] then
    local width = signed[head]
    local top = byte(raw, at + 1) >= 128 and 256 ^ width or 0
    return number_at(raw, at + 1, width) - top, at + 1 + width
  elseif (head >= 0x90 and head <= 0x9f) or head == 0xdc then
    local count, from = head - 0x90, at + 1
    if head == 0xdc then
      count, from = number_at(raw, at + 1, 2), at + 3
    end
    local values = {}
    for index = 1, count do
      values[index], from = decode(raw, from)
    end
    return values, from
  elseif head == 0xc0 then
    return nil, at + 1
  end
  error(format('cmsgpack: a head that is not simulated: 0x%x', head))
end

function cmsgpack.unpack(raw)
  local values, count, at, last = {}, 0, 1, #raw
  while at <= last do
    count = count + 1
    values[count], at = decode(raw, at)
  end
  return unpack(values, 1, count)
end

return struct, cmsgpack
