-- KEYS: leases, list of windows. ARGV: how many at most. Replies the rids whose leases are over.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now)) -- windows that take no corrections any more
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])
