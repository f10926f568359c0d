-- Times in milliseconds. KEYS: leases. ARGV: lease, rids. Only existing entries, never shorter.
local time = redis.call('TIME')
local lease = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', 'GT', lease, ARGV[i]) end
return 'OK'
