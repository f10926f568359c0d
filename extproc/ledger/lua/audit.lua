-- KEYS: epoch, leases, log, list of windows, windows. Replies a packed Audit of one moment: {time, epoch, open, records,
-- windows {name, s, r, x, l}}, or {'KEYS', …}: repeat with these keys declared.
local names = redis.call('ZRANGEBYSCORE', KEYS[4], int(now + 1), '+inf')
local prefix, keys = string.sub(KEYS[1], 1, -2), {}
for i, window in ipairs(names) do keys[i] = prefix .. 'b:' .. window end
local missing = undeclared(5, keys)
if missing then return missing end
local states = {}
for i, window in ipairs(names) do
  local s, r, x, l = read(keys[i])
  if l then states[#states + 1] = {window, s, r, x, l} end
end
return cmsgpack.pack({now, tonumber(redis.call('GET', KEYS[1]) or 0), redis.call('ZCARD', KEYS[2]),
  redis.call('XLEN', KEYS[3]), states})
