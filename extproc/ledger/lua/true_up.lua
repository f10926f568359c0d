-- KEYS: mark of the request, limits. ARGV: how long the mark lives (ms), true-ups (packed). Corrects once for each request,
-- which takes nothing any more.
if redis.call('GET', KEYS[1]) == 'corrected' then return 'DUP' end
true_up(cmsgpack.unpack(ARGV[2]), 2)
redis.call('SET', KEYS[1], 'corrected', 'PX', ARGV[1])
return 'OK'
