-- Remember a session. ARGV: what is remembered, '1' if it was ever escalated, how long the hash lives (ms).
-- Of two answers that end at once the later one is kept, but an escalation is never forgotten.
redis.call('HSET', KEYS[1], 'm', ARGV[1])
if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'e', '1') end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
