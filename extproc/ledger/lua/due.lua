-- KEYS: leases. ARGV: how many at most. Replies the rids whose leases are over.
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])
