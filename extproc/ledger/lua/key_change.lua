-- KEYS: a key. ARGV: revoke or change, then fields and values to set. Replies DONE, REVOKED (it already was), or NONE
-- (there is no such key).
if redis.call('EXISTS', KEYS[1]) == 0 then return 'NONE' end
if redis.call('HEXISTS', KEYS[1], 'revoked') == 1 then return 'REVOKED' end
if ARGV[1] == 'revoke' then redis.call('HSET', KEYS[1], 'revoked', int(now)) end
if #ARGV > 1 then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end
return 'DONE'
