-- Times in milliseconds. KEYS: reservation, leases. ARGV: rid, attempt, need, lease.
local open, ended = 'o:' .. ARGV[2], 'd:' .. ARGV[2]
local found = redis.call('HMGET', KEYS[1], 'state', 'fin', ended, open)
if found[1] ~= 'open' or found[2] or found[3] then return 'GONE' end
if found[4] then return 'OK' end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], open, ARGV[3])
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[4]), ARGV[1])
return 'OK'
