-- KEYS: reservation, leases, tombstones; with an ask also epoch, log, list of windows, then windows, then limits.
-- ARGV: rid, admission, lease; with an ask also the longest log and the ask, packed:
-- {epoch, budgets {id, unit, limit, start, end, keep}, limits, options {least, want, fixed, each, fixed tokens, each}}.
-- Without an ask the reply is a bare code, else a packed Grant.
local rid, admission, lease = ARGV[1], ARGV[2], ARGV[3]
local record = load(KEYS[1])
local ask = ARGV[5] and cmsgpack.unpack(ARGV[5])

local function verdict()
  local epoch = ask and redis.call('GET', KEYS[4])
  if ask and not epoch then return 'EMPTY' end
  -- A repeat gets the same answer and changes nothing.
  if record then return record[STATE] == RESERVED and record[FIN] == 0 and 'AGAIN' or 'GONE' end
  -- A duplicate that arrives after the close would come back as a ghost and a second record.
  if redis.call('HEXISTS', KEYS[3], rid) == 1 or made(rid) + HORIZON < now then return 'GONE' end
  if not ask then return 'OK' end
  if tonumber(epoch) ~= ask[1] then return 'STALE' end
  if redis.call('XLEN', KEYS[5]) >= tonumber(ARGV[4]) then return 'LOG_FULL' end
  for _, budget in ipairs(ask[2]) do
    if now < budget[4] or now >= budget[5] then return 'WINDOW' end
  end
  return 'OK'
end

local function write(option, granted, hold, tokens, budgets)
  record = {RESERVED, 0, 0, admission, option, granted, hold, tokens, 0, 0, 0, '', {}, {}, budgets}
  redis.call('SET', KEYS[1], cmsgpack.pack(record))
  redis.call('ZADD', KEYS[2], int(now + lease), rid)
end

local code = verdict()
if not ask then
  if code == 'OK' then write(0, 0, 0, 0, {}) end
  return code == 'AGAIN' and 'OK' or code
end

local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local due = oldest and tonumber(oldest) <= now or false
if code ~= 'OK' and code ~= 'AGAIN' then return cmsgpack.pack({code, now, 0, 0, due}) end

local budgets, limits = ask[2], ask[3]
local states = {} -- per budget: spent, reserved, debt, known limit, free
for i, budget in ipairs(budgets) do
  local s, r, x, l = read(KEYS[6 + i])
  states[i] = {s, r, x, l, budget[3] - s - r - x}
end

local first = 7 + #budgets
local function granted(option, tokens, tats)
  local left, rooms = {}, {}
  for i, budget in ipairs(budgets) do left[i] = {states[i][5], states[i][2], budget[3]} end
  for i, limit in ipairs(limits) do rooms[i] = room(limit, tonumber(tats[i]) or 0) end
  return cmsgpack.pack({'OK', now, option, tokens, due, left, rooms})
end

if code == 'AGAIN' then
  local tats = #limits > 0 and redis.call('MGET', unpack(KEYS, first, first + #limits - 1)) or {}
  return granted(record[OPTION], record[GRANTED], tats)
end

local tats, wait, which = test(limits, first)
if not tats then return cmsgpack.pack({'LIMIT', now, 0, 0, due, {}, {}, wait, which}) end

-- Fixed part and part per token that an option costs a budget of this unit.
local function price(option, unit)
  if unit == USD then return option[3], option[4] end
  if unit == TOKENS then return option[5], option[6] end
  return 1, 0
end

-- How many tokens of the option fit (-1: none), and which budget is the tightest.
local function fits(option)
  local most, tightest = option[2], nil
  for i, budget in ipairs(budgets) do
    local fixed, each = price(option, budget[2])
    if fixed ~= 0 or each ~= 0 then -- what costs a budget nothing passes it even when it is exhausted or over
      local n, free = option[2], states[i][5]
      if free < fixed then n = -1
      elseif each > 0 then
        n = math.floor((free - fixed) / each)
        if fixed + n * each > free then n = n - 1 end -- the division was rounded up
      end
      -- Of equally tight ones the one that stays so for longest.
      if n < most or n == most and tightest and budget[5] > budgets[tightest][5] then most, tightest = n, i end
    end
  end
  return most, tightest
end

local chosen, n, tightest = nil, 0, nil
for i, option in ipairs(ask[4]) do
  n, tightest = fits(option)
  if n >= option[1] then chosen = i; break end
end
if not chosen then
  local budget, state, last = budgets[tightest], states[tightest], ask[4][#ask[4]]
  local fixed, each = price(last, budget[2])
  return cmsgpack.pack({'BUDGET', now, 0, 0, due, {}, {}, 0, budget[1],
    {fixed + last[1] * each, state[5], state[2], budget[3]}})
end

local entries = {}
for i, budget in ipairs(budgets) do
  local fixed, each = price(ask[4][chosen], budget[2])
  local amount, window, till = fixed + n * each, budget[1] .. ':' .. int(budget[4]), budget[5] + budget[6]
  local key, state = KEYS[6 + i], states[i]
  if not state[4] then
    redis.call('HSET', key, 's', '0', 'r', int(amount), 'x', '0', 'l', int(budget[3]))
    redis.call('PEXPIREAT', key, int(till + 1000))
    redis.call('ZADD', KEYS[6], int(till), window)
  else
    if amount ~= 0 then redis.call('HINCRBY', key, 'r', int(amount)) end
    if state[4] ~= budget[3] then redis.call('HSET', key, 'l', int(budget[3])) end
  end
  state[2], state[5] = state[2] + amount, state[5] - amount
  entries[3 * i - 2], entries[3 * i - 1], entries[3 * i] = window, budget[2], till
end
for i in ipairs(limits) do advance(KEYS[first + i - 1], tats[i]) end
local option = ask[4][chosen]
write(chosen, n, option[3] + n * option[4], option[5] + n * option[6], entries)
return granted(chosen, n, tats)
