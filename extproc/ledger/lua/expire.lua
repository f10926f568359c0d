-- KEYS: reservation, leases, tombstones, log, then what the reply asked for: rows of the attempts, windows.
-- ARGV: rid. Replies {code, crossed soft limits as {window, percent} …, id of the record if any}, or {'KEYS', …}: repeat with these keys declared,
-- nothing was written.
local record = load(KEYS[1])
if not record or record[STATE] ~= RESERVED then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {'DUP', {}, ''}
end
local lease = redis.call('ZSCORE', KEYS[2], ARGV[1])
if lease and tonumber(lease) > now then return {'LIVE', {}, ''} end -- a renewal came between

local open, names = record[ATTEMPTS], {}
if record[ROW] ~= '' then names[1] = record[ROW] end
for i = 1, #open, 5 do
  if open[i + 4] ~= '' then names[#names + 1] = open[i + 4] end
end
local first = 5 + #names
for _, name in ipairs(windows(string.sub(KEYS[1], 1, -35), record[BUDGETS], 3)) do names[#names + 1] = name end
local missing = undeclared(5, names)
if missing then return missing end

-- Nobody says what the open attempts cost: the whole need.
local cost, tokens = total(open, 5, 2), total(open, 5, 3)
charge_all(record, first, {record[HOLD], cost}, {record[HOLD_TOKENS], tokens}, true)
record[HOLD], record[HOLD_TOKENS] = 0, 0
record[PAID], record[PAID_TOKENS] = record[PAID] + cost, record[PAID_TOKENS] + tokens
local state = #open > 0 and 'expired' or #record[ENDED] > 0 and 'closed' or 'unsent'
conclude(record, state, blobs_of({record[ENDED], 2}, {open, 5}), KEYS[4])
for i = 1, #open, 5 do
  if open[i + 4] ~= '' then redis.call('HINCRBY', open[i + 4], 'cost', int(open[i + 2])) end
end
if record[ROW] ~= '' then redis.call('HINCRBY', record[ROW], 'requests', 1) end
if #open == 0 then
  bury(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
else -- kept, so that the truth can still correct each open attempt
  record[STATE] = EXPIRED
  redis.call('SET', KEYS[1], cmsgpack.pack(record), 'PXAT', int(math.max(now, made(ARGV[1])) + HORIZON))
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return {'DONE', crossed, recorded}
