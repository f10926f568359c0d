-- KEYS: reservation, leases, tombstones, log, row, rows of the day, row `other`, list of windows, limits, windows.
-- ARGV: rid, attempt, blob, final (0 or 1), admission of an orphan, cost ('' = unknown), input, output, rows a day at
-- most, row id, seconds to keep the row, account, then the row's dimensions. The account is '' (the reply is a bare code)
-- or packed {budgets, true-ups} (the reply is a packed Ended and the id of the record, '' where none was appended).
local rid, n, blob, cost = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[6])
local used = tonumber(ARGV[7]) + tonumber(ARGV[8])
local account = ARGV[12] ~= '' and cmsgpack.unpack(ARGV[12]) or nil
local limits = account and account[2] or {}
local prefix, first = string.sub(KEYS[1], 1, -35), 9 + #limits
local record, unfunded = load(KEYS[1]), 0

local function bump(requests, change)
  local row = enter(KEYS[5], KEYS[6], KEYS[7], ARGV[9], ARGV[10], ARGV[11], 13)
  if requests > 0 then redis.call('HINCRBY', row, 'requests', requests) end
  redis.call('HINCRBY', row, 'input', ARGV[7])
  redis.call('HINCRBY', row, 'output', ARGV[8])
  if not cost then redis.call('HINCRBY', row, 'unpriced', 1) end
  if change ~= 0 then redis.call('HINCRBY', row, 'cost', int(change)) end
  return row
end

local function reply(code)
  return account and cmsgpack.pack({code, unfunded, crossed, recorded}) or code
end

-- The reservation was lost or never made: charged with nothing held, to the windows that the caller names. The tombstone of
-- such a request has its attempts ('o,1,'): the others come without a reservation too, and are charged as corrections.
local function orphan()
  local tomb = redis.call('HGET', KEYS[3], rid)
  if tomb and (string.sub(tomb, 1, 1) ~= 'o' or string.find(tomb, ',' .. int(n) .. ',', 1, true)) then
    return reply('DUP')
  end
  local requests = tomb and 0 or 1
  if made(rid) + HORIZON < now then return reply('TOO_OLD') end
  local entries = {}
  for i, budget in ipairs(account and account[1] or {}) do
    entries[3 * i - 2], entries[3 * i - 1] = budget[1] .. ':' .. int(budget[4]), budget[2]
    entries[3 * i] = budget[5] + budget[6]
  end
  local missing = undeclared(first, windows(prefix, entries, 3))
  if missing then return missing end
  for i, budget in ipairs(account and account[1] or {}) do
    local key, till = KEYS[first + i - 1], entries[3 * i]
    if now < till and budget[2] ~= CONCURRENT then
      create(key, KEYS[8], entries[3 * i - 2], budget[3], till)
      local amount = budget[2] == USD and (cost or 0) or budget[2] == TOKENS and used or requests
      local debt = charge(key, entries[3 * i - 2], 0, amount)
      if budget[2] == USD then unfunded = math.max(unfunded, debt) end
    end
  end
  append(KEYS[4], tomb and 'late' or 'orphan', ARGV[5], {blob}, cost or 0, used, unfunded, entries, 0, 0)
  bump(requests, cost or 0)
  bury(KEYS[1], KEYS[2], KEYS[3], rid)
  redis.call('HSET', KEYS[3], rid, (tomb or 'o,') .. int(n) .. ',')
  return reply(tomb and 'LATE' or 'ORPHAN')
end

-- The sweep charged the whole need; the truth corrects it.
local function late(at)
  local open = record[ATTEMPTS]
  local delta, tokens = cost and cost - open[at + 2] or 0, used - open[at + 3]
  unfunded = charge_all(record, first, {0, delta}, {0, tokens}, false)
  append(KEYS[4], 'late', record[ADMISSION], {blob}, delta, tokens, unfunded, record[BUDGETS], record[OPTION],
    record[GRANTED])
  record[ROW] = bump(record[ROW] == '' and 1 or 0, delta) -- the expiry counted the request if it knew a row
  drop(open, at, 5)
  if #open == 0 then
    bury(KEYS[1], KEYS[2], KEYS[3], rid)
  else
    redis.call('SET', KEYS[1], cmsgpack.pack(record), 'KEEPTTL')
  end
  return reply('LATE')
end

if not record then return orphan() end
local open, ended = record[ATTEMPTS], record[ENDED]
local at = find(open, 5, n)
if find(ended, 2, n) or (record[STATE] == EXPIRED and not at) then return reply('DUP') end
local missing = undeclared(first, windows(prefix, record[BUDGETS], 3))
if missing then return missing end
if record[STATE] == EXPIRED then return late(at) end

if at then drop(open, at, 5) end
local fin = record[FIN] == 1 or ARGV[4] == '1'
local closing = fin and #open == 0
local usd = {taken_of(record[HOLD], cost or 0, total(open, 5, 2), fin, closing), cost or 0}
local tokens = {taken_of(record[HOLD_TOKENS], used, total(open, 5, 3), fin, closing), used}
record[HOLD], record[HOLD_TOKENS] = record[HOLD] - usd[1], record[HOLD_TOKENS] - tokens[1]
record[PAID], record[PAID_TOKENS] = record[PAID] + usd[2], record[PAID_TOKENS] + tokens[2]
record[BEGUN] = 1
ended[#ended + 1], ended[#ended + 2] = n, blob
unfunded = charge_all(record, first, usd, tokens, closing)
true_up(limits, 9)
record[ROW] = bump(closing and 1 or 0, cost or 0)
if closing then
  conclude(record, 'done', blobs_of({ended, 2}), KEYS[4])
  bury(KEYS[1], KEYS[2], KEYS[3], rid)
  if n > 1 then
    -- For `finish`, which may come after this: which attempts there were ('c,1,2').
    local numbers = {'c'}
    for i = 1, #ended, 2 do numbers[#numbers + 1] = int(ended[i]) end
    redis.call('HSET', KEYS[3], rid, table.concat(numbers, ','))
  end
  return reply('DONE')
end
record[FIN] = fin and 1 or 0
redis.call('SET', KEYS[1], cmsgpack.pack(record))
return reply('OPEN')
