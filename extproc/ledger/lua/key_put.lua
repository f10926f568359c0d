-- KEYS: index by name, index by digest, the new key, then the keys that have its name. ARGV: name, digest, create or
-- rotate, ms for which the old keys stay valid, ms for which the new one is valid (0: for ever, '': as long as the one
-- it replaces was to be), then fields and values of the new one. Replies DONE, TAKEN (a key in force has the name), NONE
-- (there is none to replace), DUP (the digest is known), or {'KEYS', …}: repeat with these keys declared.
local name, overlap, term = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local prefix, keys = string.sub(KEYS[1], 1, -2), {}
for i, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '[' .. name .. '\0', '(' .. name .. '\1')) do
  keys[i] = prefix .. 'k:' .. string.sub(member, #name + 2)
end
local missing = undeclared(4, keys)
if missing then return missing end
if redis.call('EXISTS', KEYS[3]) == 1 then return 'DUP' end

local live, newest = {}, nil
for _, key in ipairs(keys) do
  local f = redis.call('HMGET', key, 'revoked', 'expires', 'created', 'replaced')
  local expires = f[2] and tonumber(f[2]) or 0
  if f[3] and not f[1] and (expires == 0 or expires > now) then
    local rank = (f[4] and 0 or 1e15) + tonumber(f[3]) -- two may be of the same millisecond, but one is not replaced
    live[#live + 1] = {key, expires, tonumber(f[3]), rank}
    if not newest or rank > newest[4] then newest = live[#live] end
  end
end

if ARGV[3] == 'create' then
  if newest then return 'TAKEN' end
else
  if not newest then return 'NONE' end
  redis.call('HSET', KEYS[3], unpack(redis.call('HGETALL', newest[1])))
  redis.call('HDEL', KEYS[3], 'replaced')
  if not term then term = newest[2] > 0 and newest[2] - newest[3] or 0 end
  for _, old in ipairs(live) do
    redis.call('HSET', old[1], 'replaced', int(now))
    if old[2] == 0 or old[2] > now + overlap then redis.call('HSET', old[1], 'expires', int(now + overlap)) end
  end
end
if #ARGV > 5 then redis.call('HSET', KEYS[3], unpack(ARGV, 6)) end
redis.call('HSET', KEYS[3], 'since', '0', 'created', int(now), 'expires', term and term > 0 and int(now + term) or '0')
redis.call('ZADD', KEYS[1], 0, name .. '\0' .. ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
return 'DONE'
