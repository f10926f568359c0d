-- KEYS: leases. ARGV: lease, rids. Only existing entries, never shorter.
local lease = int(now + ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', 'GT', lease, ARGV[i]) end
return 'OK'
