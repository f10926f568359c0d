-- Amounts in nano-dollars and tokens. KEYS: reservation, leases, tombstones, log, rollup row, rows of the day.
-- ARGV: rid, attempt, blob, final (0 or 1), admission of an orphan, cost ('' = unknown), input, output, row id,
-- seconds to keep the row, then the row's dimensions as field and value.
local rid, blob, open, ended = ARGV[1], ARGV[3], 'o:' .. ARGV[2], 'd:' .. ARGV[2]
local record = read(KEYS[1])

local function bump(requests)
  if redis.call('SADD', KEYS[6], ARGV[9]) == 1 then
    redis.call('HSET', KEYS[5], unpack(ARGV, 11))
    redis.call('EXPIRE', KEYS[5], ARGV[10])
    redis.call('EXPIRE', KEYS[6], ARGV[10])
  end
  redis.call('HINCRBY', KEYS[5], 'requests', requests)
  redis.call('HINCRBY', KEYS[5], 'input', ARGV[7])
  redis.call('HINCRBY', KEYS[5], 'output', ARGV[8])
  if ARGV[6] == '' then redis.call('HINCRBY', KEYS[5], 'unpriced', 1)
  else redis.call('HINCRBY', KEYS[5], 'cost', ARGV[6]) end
end

if not record.state then
  if redis.call('HEXISTS', KEYS[3], rid) == 1 then return 'DUP' end
  append(KEYS[4], 'orphan', ARGV[5], {blob})
  bump(1)
  bury(KEYS[1], KEYS[2], KEYS[3], rid)
  return 'ORPHAN'
end
if record[ended] or (record.state == 'expired' and not record[open]) then return 'DUP' end

record[open], record[ended] = nil, blob
local rest = #attempts(record, 'o')
if record.state == 'expired' then
  append(KEYS[4], 'late', record.adm, {blob})
  bump(record.row and 0 or 1) -- the expiry counted the request if it knew a row
  redis.call('HDEL', KEYS[1], open)
  redis.call('HSET', KEYS[1], 'row', KEYS[5])
  if rest == 0 then bury(KEYS[1], KEYS[2], KEYS[3], rid) end
  return 'LATE'
end
local fin = record.fin or ARGV[4] == '1'
if fin and rest == 0 then
  append(KEYS[4], 'done', record.adm, attempts(record, 'd'))
  bump(1)
  bury(KEYS[1], KEYS[2], KEYS[3], rid)
  return 'DONE'
end
bump(0)
redis.call('HDEL', KEYS[1], open)
redis.call('HSET', KEYS[1], ended, blob, 'row', KEYS[5])
if fin then redis.call('HSET', KEYS[1], 'fin', 1) end
return 'OPEN'
