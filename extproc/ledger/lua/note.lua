-- KEYS: tombstones, log, row, rows of the day, row `other`, limits. ARGV: rid, admission, longest log, rows a day at most,
-- row id, seconds to keep the row, limits (packed), then the row's dimensions. Replies a packed Noted.
local rid, limits = ARGV[1], cmsgpack.unpack(ARGV[7])
if redis.call('HEXISTS', KEYS[1], rid) == 1 then return cmsgpack.pack({'DUP'}) end
if made(rid) + HORIZON < now then return cmsgpack.pack({'TOO_OLD'}) end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return cmsgpack.pack({'LOG_FULL'}) end
local tats, wait, which = test(limits, 6)
if not tats then return cmsgpack.pack({'LIMIT', wait, which}) end

for i in ipairs(limits) do advance(KEYS[5 + i], tats[i]) end
append(KEYS[2], 'cached', ARGV[2], {}, 0, 0, 0, {}, 0, 0)
local row = enter(KEYS[3], KEYS[4], KEYS[5], ARGV[4], ARGV[5], ARGV[6], 8)
redis.call('HINCRBY', row, 'requests', 1)
tombstone(KEYS[1], rid)
return cmsgpack.pack({'DONE'})
