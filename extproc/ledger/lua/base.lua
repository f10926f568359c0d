-- Prepended to every script. Times in milliseconds (`us`: microseconds); amounts in nano-dollars, tokens or pieces.
-- Numbers are doubles, exact to 2^53 - 1. They reach a key only through int(): tostring() and .. round to 14 digits.
local HORIZON = 172800000 -- tombstones and expired reservations outlive any late call by this

local function int(n) return string.format('%.0f', n + 0) end -- + 0: there is no "-0" in Redis

local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2]
local now = math.floor(us / 1000)

-- A reservation is one packed array:
local STATE, FIN, BEGUN, ADMISSION, OPTION, GRANTED = 1, 2, 3, 4, 5, 6
local HOLD, HOLD_TOKENS, PAID, PAID_TOKENS, UNFUNDED = 7, 8, 9, 10, 11
local ROW = 12     -- rollup row of the last attempt, '' before one is known
local ATTEMPTS = 13 -- open ones: {number, blob, need n$, need tokens, row or ''} …
local ENDED = 14   -- ended ones: {number, blob} …
local BUDGETS = 15 -- {window, unit, last moment of corrections} …; the hold is per unit, not per budget
local RESERVED, EXPIRED = 1, 2 -- values of STATE
local USD, TOKENS, REQUESTS, CONCURRENT = 1, 2, 3, 4

local function load(key)
  local packed = redis.call('GET', key)
  return packed and cmsgpack.unpack(packed)
end

local function find(list, width, number)
  for i = 1, #list, width do if list[i] == number then return i end end
end

local function drop(list, at, width)
  for _ = 1, width do table.remove(list, at) end
end

local function total(list, width, offset)
  local sum = 0
  for i = 1, #list, width do sum = sum + list[i + offset] end
  return sum
end

-- When the id was made: UUIDv7 begins with 48 bits of milliseconds.
local function made(rid)
  local ms = 0
  for i = 1, 6 do ms = ms * 256 + string.byte(rid, i) end
  return ms
end

-- The keys a script finds it needs must be declared: `names` equal KEYS from `first` on, else the reply that asks.
local function undeclared(first, names)
  local same = #KEYS == first + #names - 1
  for i = 1, #names do same = same and KEYS[first + i - 1] == names[i] end
  if same then return nil end
  local reply = {'KEYS'}
  for i, name in ipairs(names) do reply[i + 1] = name end
  return reply
end

local function windows(prefix, budgets, width)
  local names = {}
  for i = 1, #budgets, width do names[#names + 1] = prefix .. 'b:' .. budgets[i] end
  return names
end

-- s spent, r reserved, x debt, l limit of one window.
local function read(key)
  local f = redis.call('HMGET', key, 's', 'r', 'x', 'l')
  return tonumber(f[1]) or 0, tonumber(f[2]) or 0, tonumber(f[3]) or 0, tonumber(f[4])
end

