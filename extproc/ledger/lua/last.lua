-- KEYS: log. ARGV: an id that was seen there ('0-0': none), how many records the log had ever had then.
-- Replies ms and number of the highest id that it ever gave, how many records it ever had, and 1 if it has lost that one.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, 0, ARGV[1] == '0-0' and 0 or 1} end
local about = redis.call('XINFO', 'STREAM', KEYS[1])
local field = {}
for i = 1, #about, 2 do field[about[i]] = about[i + 1] end

local function parts(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local ms, n = parts(field['last-generated-id'])
local seen, number = parts(ARGV[1])
local lost = false
if seen > 0 then
  local first = field['first-entry']
  local from, at = parts(first and first[1] or field['last-generated-id'])
  -- New records hide that the highest id had fallen: then it is missing between others. Behind a trim only counts tell.
  if ms < seen or ms == seen and n < number or field['entries-added'] < tonumber(ARGV[2]) then lost = true
  elseif first and (from < seen or from == seen and at <= number) then
    lost = #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0
  end
end
return {ms, n, field['entries-added'], lost and 1 or 0}
