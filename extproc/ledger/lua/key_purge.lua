-- KEYS: index by name, index by digest, then keys. ARGV: ms since they ended, 'count' or 'remove', then the members of
-- the index by name, one for each key. Replies how many keys ended so long ago.
local before, found = now - tonumber(ARGV[1]), 0
for i = 3, #KEYS do
  local f, member = redis.call('HMGET', KEYS[i], 'revoked', 'expires', 'created'), ARGV[i]
  local expires = tonumber(f[2]) or 0
  -- One that was ended twice ended the first time.
  local ended = expires > 0 and expires or math.huge
  if f[1] then ended = math.min(ended, tonumber(f[1])) end
  if not f[3] or ended <= before then
    found = found + 1
    if ARGV[2] == 'remove' then
      redis.call('DEL', KEYS[i])
      redis.call('ZREM', KEYS[1], member)
      redis.call('ZREM', KEYS[2], string.sub(member, -64))
    end
  end
end
return found
