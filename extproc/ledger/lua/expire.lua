-- Times in milliseconds. KEYS: reservation, leases, tombstones, log, rollup row of the last attempt (may be missing).
-- ARGV: rid. Replies {code}, or {'ROW', key}: repeat with that key declared, nothing was written.
local record = read(KEYS[1])
if record.state ~= 'open' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {'DUP'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('ZSCORE', KEYS[2], ARGV[1])
if lease and tonumber(lease) > now then return {'LIVE'} end -- a renewal came between
if record.row and record.row ~= KEYS[5] then return {'ROW', record.row} end

local open, all = #attempts(record, 'o'), attempts(record, 'do')
local state = open > 0 and 'expired' or #all > 0 and 'closed' or 'unsent'
append(KEYS[4], state, record.adm, all)
if record.row then redis.call('HINCRBY', record.row, 'requests', 1) end
if open == 0 then
  bury(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
else -- kept, so that the truth can still correct each open attempt
  redis.call('HSET', KEYS[1], 'state', 'expired')
  redis.call('PEXPIRE', KEYS[1], HORIZON)
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return {'DONE'}
