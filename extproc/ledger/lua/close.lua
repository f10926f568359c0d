-- Times in milliseconds, amounts in nano-dollars and tokens. Prepended to the scripts that can close a request.
local HORIZON = 172800000 -- tombstones and expired reservations outlive any late call by this

local function read(key)
  local record, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end

-- Attempt blobs by attempt number. kinds: 'd' = ended, 'o' = open, 'do' = both.
local function attempts(record, kinds)
  local found, blobs = {}, {}
  for name, blob in pairs(record) do
    local kind, number = string.match(name, '^([do]):(%d+)$')
    if kind and string.find(kinds, kind, 1, true) then found[#found + 1] = {tonumber(number), blob} end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  for i, pair in ipairs(found) do blobs[i] = pair[2] end
  return blobs
end

-- One length-delimited protobuf field: tag, varint length, bytes.
local function field(tag, bytes)
  local n, length = #bytes, ''
  while n > 127 do
    length = length .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return string.char(tag) .. length .. string.char(n) .. bytes
end

-- Appends a serialized UsageRecord {state = 1, admission = 2, attempts = 3}.
local function append(log, state, admission, blobs)
  local parts = {field(0x0A, state), field(0x12, admission)}
  for _, blob in ipairs(blobs) do parts[#parts + 1] = field(0x1A, blob) end
  redis.call('XADD', log, '*', 'r', table.concat(parts))
end

local function bury(reservation, leases, tombs, rid)
  redis.call('HSET', tombs, rid, 1)
  redis.call('PEXPIRE', tombs, HORIZON)
  redis.call('DEL', reservation)
  redis.call('ZREM', leases, rid)
end

