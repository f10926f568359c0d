-- KEYS: reservation, leases; with a need also row, rows of the day, row `other`, then windows when the reply asked for them.
-- ARGV: rid, attempt, blob, lease; with a need also n$, tokens, rows a day at most, row id, seconds to keep the row, then
-- its dimensions. Without a need the reply is a bare code, else a packed Begun.
local record, n = load(KEYS[1]), tonumber(ARGV[2])
local function reply(...) return ARGV[5] and cmsgpack.pack({...}) or (...) end

if not record or record[STATE] ~= RESERVED or record[FIN] == 1 or find(record[ENDED], 2, n) then return reply('GONE') end
local open = record[ATTEMPTS]
if find(open, 5, n) then return reply('OK') end

local need, tokens, row = tonumber(ARGV[5]) or 0, tonumber(ARGV[6]) or 0, ''
-- A second attempt must not be paid from what the first one may still use.
local short = math.max(total(open, 5, 2) + need - record[HOLD], 0)
local short_tokens = math.max(total(open, 5, 3) + tokens - record[HOLD_TOKENS], 0)
if short > 0 or short_tokens > 0 then
  local budgets = record[BUDGETS]
  local missing = undeclared(6, windows(string.sub(KEYS[1], 1, -35), budgets, 3))
  if missing then return missing end
  local tightest
  for i = 1, #budgets, 3 do
    local unit, key = budgets[i + 1], KEYS[6 + (i - 1) / 3]
    local more = unit == USD and short or unit == TOKENS and short_tokens or 0
    if more > 0 and now < budgets[i + 2] then
      local s, r, x, l = read(key)
      local free = (l or 0) - s - r - x
      if more > free and (not tightest or free - more < tightest[3] - tightest[2]) then
        tightest = {string.match(budgets[i], '^(.*):'), more, free, r, l or 0}
      end
    end
  end
  if tightest then return reply('BUDGET', unpack(tightest)) end
  for i = 1, #budgets, 3 do
    local unit = budgets[i + 1]
    local more = unit == USD and short or unit == TOKENS and short_tokens or 0
    if more > 0 and now < budgets[i + 2] then redis.call('HINCRBY', KEYS[6 + (i - 1) / 3], 'r', int(more)) end
  end
  record[HOLD], record[HOLD_TOKENS] = record[HOLD] + short, record[HOLD_TOKENS] + short_tokens
end

if ARGV[5] then
  row = enter(KEYS[3], KEYS[4], KEYS[5], ARGV[7], ARGV[8], ARGV[9], 10)
  record[ROW] = row
end
for _, value in ipairs({n, ARGV[3], need, tokens, row}) do open[#open + 1] = value end
record[BEGUN] = 1
redis.call('SET', KEYS[1], cmsgpack.pack(record))
redis.call('ZADD', KEYS[2], int(now + ARGV[4]), ARGV[1])
return reply('OK')
