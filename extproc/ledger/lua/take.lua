-- KEYS: mark of the request, limits. ARGV: how long the mark lives (ms), limits (packed). Takes all or nothing, and once
-- for each request: one whose mark is there has what it asked for. Replies a packed Taken.
if redis.call('EXISTS', KEYS[1]) == 1 then return cmsgpack.pack({'OK'}) end
local limits = cmsgpack.unpack(ARGV[2])
local tats, wait, which = test(limits, 2)
if not tats then return cmsgpack.pack({'LIMIT', wait, which}) end
for i in ipairs(limits) do advance(KEYS[1 + i], tats[i]) end
redis.call('SET', KEYS[1], 'taken', 'PX', ARGV[1])
return cmsgpack.pack({'OK'})
