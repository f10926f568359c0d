-- KEYS: tombstones, log, row, rows of the day, row `other`, list of windows, windows. ARGV: adjust id, admission, n$,
-- tokens, rows a day at most, row id, seconds to keep the row, budgets (packed), then the row's dimensions.
-- Replies a packed Ended.
local id, cost, tokens, budgets = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), cmsgpack.unpack(ARGV[8])
if redis.call('HEXISTS', KEYS[1], id) == 1 then return cmsgpack.pack({'DUP', 0, {}}) end
if made(id) + HORIZON < now then return cmsgpack.pack({'TOO_OLD', 0, {}}) end

local unfunded, entries, touched = 0, {}, {}
for i, budget in ipairs(budgets) do
  local window, till = budget[1] .. ':' .. int(budget[4]), budget[5] + budget[6]
  local amount = budget[2] == USD and cost or budget[2] == TOKENS and tokens or 0
  entries[3 * i - 2], entries[3 * i - 1], entries[3 * i] = window, budget[2], till
  if amount ~= 0 and now < till then
    local s, _, x = read(KEYS[6 + i])
    if s + x + amount < 0 then return cmsgpack.pack({'BELOW_ZERO', 0, {}}) end
    touched[#touched + 1] = {KEYS[6 + i], window, amount, budget[2], budget[3], till}
  end
end
for _, entry in ipairs(touched) do
  create(entry[1], KEYS[6], entry[2], entry[5], entry[6])
  local debt = charge(entry[1], entry[2], 0, entry[3])
  if entry[4] == USD then unfunded = math.max(unfunded, debt) end
end
append(KEYS[2], 'adjust', ARGV[2], {}, cost, tokens, unfunded, entries, 0, 0)
local row = enter(KEYS[3], KEYS[4], KEYS[5], ARGV[5], ARGV[6], ARGV[7], 9)
redis.call('HINCRBY', row, 'cost', int(cost))
tombstone(KEYS[1], id)
return cmsgpack.pack({'DONE', unfunded, crossed})
