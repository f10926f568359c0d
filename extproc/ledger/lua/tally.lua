-- Add to counters, or raise maxima. ARGV: 'add' or 'put', how long the hash lives (ms), most fields, field, amount …
-- A field too many is summed in `other`; a maximum too many is dropped.
local key, how, most = KEYS[1], ARGV[1], tonumber(ARGV[3])
local fields = redis.call('HLEN', key)

for i = 4, #ARGV, 2 do
  local field, amount = ARGV[i], ARGV[i + 1]
  local known = redis.call('HGET', key, field)
  if not known and fields >= most then
    field = how == 'add' and 'other' or nil
    known = field and redis.call('HGET', key, field)
  end
  if field then
    if not known then fields = fields + 1 end
    if how == 'add' then
      redis.call('HINCRBY', key, field, amount)
    elseif not known or tonumber(amount) > tonumber(known) then
      redis.call('HSET', key, field, amount)
    end
  end
end
redis.call('PEXPIRE', key, ARGV[2])
return fields
