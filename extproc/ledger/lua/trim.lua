-- KEYS: log. ARGV: group that asks, ms of records to keep in any case.
-- Removes what every group of the log has taken, and nothing where the one that asks has taken none. Replies how many.
local asks, ms, number = false, now - tonumber(ARGV[2]), 0
local function keep(id, above)
  local left, right = string.match(id, '^(%d+)-(%d+)$')
  left, right = tonumber(left), tonumber(right) + above
  if left < ms or left == ms and right < number then ms, number = left, right end
end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local field = {}
  for i = 1, #group, 2 do field[group[i]] = group[i + 1] end
  asks = asks or field['name'] == ARGV[1]
  keep(field['last-delivered-id'], 1)
  if field['pending'] > 0 then keep(redis.call('XPENDING', KEYS[1], field['name'])[2], 0) end
end
if not asks or ms < 0 then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', int(ms) .. '-' .. int(number))
