-- Prepended to the scripts that charge, record and close.

-- One protobuf field: tag, then a varint of a number or a length-delimited string.
local function varint(n)
  local bytes = ''
  while n > 127 do
    bytes = bytes .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return bytes .. string.char(n)
end

local function field(tag, bytes) return string.char(tag) .. varint(#bytes) .. bytes end

local function number(tag, n) return n == 0 and '' or string.char(tag) .. varint(n) end

-- sint64: zigzag, without ever doubling the number (that would leave what a double holds exactly).
local function signed(tag, n)
  if n == 0 then return '' end
  local sign = 0
  if n < 0 then n, sign = -n - 1, 1 end
  local low = n % 64 * 2 + sign
  if n < 64 then return string.char(tag, low) end
  return string.char(tag, low + 128) .. varint(math.floor(n / 64))
end

local recorded = '' -- the id of the record that this call appended

-- Appends a serialized UsageRecord {state, admission, attempts, delta n$, delta tokens, unfunded, budgets, option, granted}.
local function append(log, state, admission, blobs, delta, tokens, unfunded, budgets, option, granted)
  local parts = {field(0x0A, state), field(0x12, admission)}
  for _, blob in ipairs(blobs) do parts[#parts + 1] = field(0x1A, blob) end
  parts[#parts + 1] = signed(0x20, delta)
  parts[#parts + 1] = signed(0x28, tokens)
  parts[#parts + 1] = number(0x30, unfunded)
  for i = 1, #budgets, 3 do parts[#parts + 1] = field(0x3A, budgets[i]) end
  parts[#parts + 1] = number(0x40, option)
  parts[#parts + 1] = number(0x48, granted)
  recorded = redis.call('XADD', log, '*', 'r', table.concat(parts))
end

-- Attempt blobs in the order of their numbers.
local function blobs_of(...)
  local found, blobs = {}, {}
  for _, source in ipairs({...}) do
    local list, width = source[1], source[2]
    for i = 1, #list, width do found[#found + 1] = {list[i], list[i + 1]} end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  for i, pair in ipairs(found) do blobs[i] = pair[2] end
  return blobs
end

local function tombstone(tombs, rid)
  redis.call('HSET', tombs, rid, 1)
  redis.call('PEXPIREAT', tombs, int(math.max(now, made(rid)) + HORIZON + 60000))
end

local function bury(reservation, leases, tombs, rid)
  tombstone(tombs, rid)
  redis.call('DEL', reservation)
  redis.call('ZREM', leases, rid)
end

local crossed = {} -- {window, percent} of soft limits that this call crossed

-- Releases `taken` of what is reserved and charges `cost`. What `taken` does not cover is funded from what is free; the
-- rest is debt, outside spent. A negative cost pays debt back first. Returns the new debt.
local function charge(key, window, taken, cost)
  local s, r, x, l = read(key)
  if not l then return 0 end -- gone, and must not come back without an expiry
  local spent, debt = s, 0
  if cost < 0 then
    debt = -math.min(x, -cost)
    spent = s + cost - debt
  else
    local excess = math.max(cost - taken, 0)
    local fit = excess > 0 and math.max(math.min(l - s - r + taken - (cost - excess), excess), 0) or 0
    spent, debt = s + cost - excess + fit, excess - fit
  end
  redis.call('HSET', key, 's', int(spent), 'r', int(r - taken))
  if debt ~= 0 then redis.call('HINCRBY', key, 'x', int(debt)) end
  for _, percent in ipairs({75, 95}) do
    local line = l * percent / 100
    if s < line and spent >= line then crossed[#crossed + 1] = {window, percent} end
  end
  return math.max(debt, 0)
end

-- A window that is gone from the store, or new to it, must not live for ever.
local function create(key, index, window, limit, till)
  if redis.call('EXISTS', key) == 1 then return end
  redis.call('HSET', key, 's', '0', 'r', '0', 'x', '0', 'l', int(limit))
  redis.call('PEXPIREAT', key, int(till + 1000))
  redis.call('ZADD', index, int(till), window)
end

-- Charges every window of a reservation. `first`: where KEYS has the windows. usd, tokens: {taken, cost}.
local function charge_all(record, first, usd, tokens, closing)
  local unfunded, budgets = 0, record[BUDGETS]
  for i = 1, #budgets, 3 do
    local window, unit, till, key = budgets[i], budgets[i + 1], budgets[i + 2], KEYS[first + (i - 1) / 3]
    -- After its keep time a window is gone: it is skipped, never created again.
    if now < till then
      if unit == USD then
        if usd[1] ~= 0 or usd[2] ~= 0 then
          unfunded = math.max(unfunded, charge(key, window, usd[1], usd[2]))
        end
      elseif unit == TOKENS then
        if tokens[1] ~= 0 or tokens[2] ~= 0 then charge(key, window, tokens[1], tokens[2]) end
      elseif closing then
        charge(key, window, 1, unit == REQUESTS and record[BEGUN] == 1 and 1 or 0)
      end
    end
  end
  record[UNFUNDED] = record[UNFUNDED] + unfunded
  return unfunded
end

-- Settles `cost` against a hold of which `keep` stays. Returns what is taken out of the hold.
local function taken_of(hold, cost, others, fin, closing)
  if closing then return hold end
  local keep = fin and others or math.max(hold - cost, others)
  return hold - math.min(keep, hold)
end

-- Appends the primary record of a reservation and buries it (`keep`: it stays, to be corrected).
local function conclude(record, state, blobs, log)
  append(log, state, record[ADMISSION], blobs, record[PAID], record[PAID_TOKENS], record[UNFUNDED],
    record[BUDGETS], record[OPTION], record[GRANTED])
end

