-- KEYS: epoch, table, list of windows, then the windows of budgets that changed. ARGV: epoch expected (0: none), table,
-- changed limits, packed {id of the table's entry = limit}. Replies {code, epoch}, or {'KEYS', …}: repeat with these keys declared.
local epoch, limits = tonumber(redis.call('GET', KEYS[1]) or 0), cmsgpack.unpack(ARGV[3])
if epoch ~= tonumber(ARGV[1]) then return {'STALE', int(epoch)} end

-- Windows of a budget for each one (`team: "*"`) have ids that begin with that of its entry; other ids may look alike.
local function limit_of(id)
  local entry = string.find(id, '^[^.]*%.all%.') and string.match(id, '^(.*)%.')
  return limits[id] or entry and limits[entry]
end

local prefix, names, changed = string.sub(KEYS[1], 1, -2), {}, {}
for _, window in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], int(now + 1), '+inf')) do
  local limit = limit_of(string.match(window, '^(.*):'))
  if limit then
    names[#names + 1] = prefix .. 'b:' .. window
    changed[#changed + 1] = limit
  end
end
local missing = undeclared(4, names)
if missing then return missing end

redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', int(now))
for i, key in ipairs(names) do
  if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'l', int(changed[i])) end
end
-- On an empty store epochs start at the time, so that none from before the loss comes again.
epoch = epoch == 0 and now or epoch + 1
redis.call('SET', KEYS[1], int(epoch))
redis.call('SET', KEYS[2], ARGV[2])
return {'OK', int(epoch)}
