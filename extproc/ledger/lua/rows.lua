-- Rollup rows: one per day and set of dimensions.

-- Adds a row to the day's list at its first use; ARGV has its dimensions from `first` on. Beyond `cap` rows a day, the
-- row `other`. Returns the row's key.
local function enter(row, rows, other, cap, id, keep, first)
  if redis.call('SADD', rows, id) == 0 then return row end
  local dimensions = {unpack(ARGV, first)}
  if redis.call('SCARD', rows) > tonumber(cap) then
    redis.call('SREM', rows, id)
    row = other
    if redis.call('SADD', rows, 'other') == 0 then return row end
    for i = 2, #dimensions, 2 do dimensions[i] = 'other' end
  end
  redis.call('HSET', row, unpack(dimensions))
  redis.call('EXPIRE', row, keep)
  redis.call('EXPIRE', rows, keep)
  return row
end

