-- The one clock of a script: the store's own time in milliseconds, or what a test passes (0 asks the store).
local function clock(given)
  if given > 0 then
    return given
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
