-- KEYS: reservation, leases, tombstones, log, then what the reply asked for: row of the last attempt, windows.
-- ARGV: rid. Replies {code, ended blobs, crossed soft limits as {window, percent} …, id of the record if any}, or {'KEYS', …}: repeat with these
-- keys declared, nothing was written. Of a request that its last attempt closed, the tombstone tells the attempts: their
-- blobs then hold the number alone (field 1 of the protobuf message).
local record = load(KEYS[1])
if not record then
  local tomb, told = redis.call('HGET', KEYS[3], ARGV[1]), {}
  if tomb and string.sub(tomb, 1, 1) == 'c' then
    for number in string.gmatch(tomb, '%d+') do told[#told + 1] = string.char(8, math.min(tonumber(number), 127)) end
  end
  return {'DUP', told, {}, ''}
end
local blobs = blobs_of({record[ENDED], 2})
if record[STATE] ~= RESERVED or record[FIN] == 1 then return {'DUP', blobs, {}, ''} end
if #record[ATTEMPTS] > 0 then
  record[FIN] = 1
  redis.call('SET', KEYS[1], cmsgpack.pack(record))
  return {'OPEN', blobs, {}, ''}
end
local names = windows(string.sub(KEYS[1], 1, -35), record[BUDGETS], 3)
local first = 5
if record[ROW] ~= '' then
  table.insert(names, 1, record[ROW])
  first = 6
end
local missing = undeclared(5, names)
if missing then return missing end

charge_all(record, first, {record[HOLD], 0}, {record[HOLD_TOKENS], 0}, true)
conclude(record, #blobs > 0 and 'done' or 'unsent', blobs, KEYS[4])
if record[ROW] ~= '' then redis.call('HINCRBY', record[ROW], 'requests', 1) end
bury(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
return {'DONE', blobs, crossed, recorded}
