-- Rate limits: one number per limit, the time (microseconds) at which its debt is paid. KEYS from `first` on.
-- A limit: {id, period in ms, limit, burst, cost}.

local function rate(limit) return limit[2] * 1000 / limit[3] end

-- Room left below the burst and milliseconds until all of it is back.
local function room(limit, tat)
  local ahead = math.max(tat - us, 0)
  return {math.max(math.floor(limit[4] - ahead / rate(limit)), 0), math.ceil(ahead / 1000)}
end

local function advance(key, tat) redis.call('SET', key, int(tat), 'PXAT', int(math.floor(tat / 1000) + 1)) end

-- Tests all limits. Returns the new times, or nil, the longest wait (ms) and the id of its limit. Writes nothing.
local function test(limits, first)
  if #limits == 0 then return {} end
  local tats, longest, which = redis.call('MGET', unpack(KEYS, first, first + #limits - 1)), 0, nil
  for i, limit in ipairs(limits) do
    -- More than the burst is never asked for at once: a prompt above it would wait for ever. The true-up takes the rest.
    local step = math.ceil(math.min(limit[5], limit[4]) * rate(limit))
    local tat = math.max(us, tonumber(tats[i]) or 0) + step
    local over = tat - us - math.ceil(limit[4] * rate(limit))
    if over > 0 and over > longest then longest, which = over, limit[1] end
    tats[i] = tat
  end
  if which then return nil, math.ceil(longest / 1000), which end
  return tats
end

-- Corrects limits by what was really used: {id, period, limit, burst, estimate, actual}.
local function true_up(limits, first)
  for i, limit in ipairs(limits) do
    local used = limit[6] - math.min(limit[5], limit[4])
    if used ~= 0 then
      local key = KEYS[first + i - 1]
      local tat = math.max(us, tonumber(redis.call('GET', key)) or 0) + math.ceil(used * rate(limit))
      if tat > us then advance(key, tat) else redis.call('DEL', key) end
    end
  end
end

