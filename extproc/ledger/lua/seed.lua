-- KEYS: epoch, log, list of windows, windows. ARGV: records that the sums were made from, budgets (packed), sums (packed).
-- Only into a store without an epoch: nothing is granted there, so nothing can be reserved meanwhile.
if redis.call('EXISTS', KEYS[1]) == 1 then return 'NOT_EMPTY' end
if redis.call('XLEN', KEYS[2]) ~= tonumber(ARGV[1]) then return 'CHANGED' end

local budgets, sums = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
for i, budget in ipairs(budgets) do
  local key, till, limit = KEYS[3 + i], budget[5] + budget[6], budget[3]
  if now < till then
    create(key, KEYS[3], budget[1] .. ':' .. int(budget[4]), limit, till)
    local spent = math.min(sums[i], limit)
    redis.call('HSET', key, 's', int(spent), 'x', int(sums[i] - spent), 'l', int(limit))
  end
end
return 'OK'
