-- Times in milliseconds. KEYS: reservation, leases, tombstones. ARGV: rid, admission, lease.
local found = redis.call('HMGET', KEYS[1], 'state', 'fin')
if found[1] then
  -- A repeat gets the same answer and changes nothing.
  if found[1] == 'open' and not found[2] then return 'OK' end
  return 'GONE'
end
-- A duplicate that arrives after the close would come back as a ghost and a second record.
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 'GONE' end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'state', 'open', 'adm', ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[3]), ARGV[1])
return 'OK'
