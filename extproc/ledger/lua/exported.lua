-- KEYS: log. ARGV: group, id up to which it had taken the log ('0-0': nothing), id up to which it has from now on.
-- Replies the id it stands at; another one than the new: another exporter moves this group.
local stands = '0-0'
local known = false
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local field = {}
  for i = 1, #group, 2 do field[group[i]] = group[i + 1] end
  if field['name'] == ARGV[1] then stands, known = field['last-delivered-id'], true end
end
if stands ~= ARGV[2] then return stands end
if known then redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[3])
else redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[3]) end
return ARGV[3]
