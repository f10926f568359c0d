-- KEYS: reservation. ARGV: attempt. Replies 1 if the attempt is open there, 0 if it is not, also of one that has expired.
local record = load(KEYS[1])
return record and find(record[ATTEMPTS], 5, tonumber(ARGV[1])) and 1 or 0
