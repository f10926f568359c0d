-- KEYS: limits. ARGV: limits (packed). Takes all or nothing. Replies a packed Noted.
local limits = cmsgpack.unpack(ARGV[1])
local tats, wait, which = test(limits, 1)
if not tats then return cmsgpack.pack({'LIMIT', wait, which}) end
for i in ipairs(limits) do advance(KEYS[i], tats[i]) end
return cmsgpack.pack({'OK'})
