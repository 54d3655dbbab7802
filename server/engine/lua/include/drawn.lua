-- A balance's param (hold_layout.lua) with what was drawn behind it: a sequence, whether the param was one or a number.
local function drawn(param, draws)
  return (type(param) == 'string' and param or cmsgpack.pack(param)) .. cmsgpack.pack(unpack(draws))
end
