-- Counts are requests. KEYS: reservation, leases, tombstones, log, rollup row of the last attempt (may be missing).
-- ARGV: rid. Replies {code, ended blobs}, or {'ROW', key}: repeat with that key declared, nothing was written.
local record = read(KEYS[1])
local blobs = attempts(record, 'd')
if record.state ~= 'open' or record.fin then return {'DUP', blobs} end
if #attempts(record, 'o') > 0 then
  redis.call('HSET', KEYS[1], 'fin', 1)
  return {'OPEN', blobs}
end
if record.row and record.row ~= KEYS[5] then return {'ROW', record.row} end

append(KEYS[4], #blobs > 0 and 'done' or 'unsent', record.adm, blobs)
if record.row then redis.call('HINCRBY', record.row, 'requests', 1) end
bury(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
return {'DONE', blobs}
