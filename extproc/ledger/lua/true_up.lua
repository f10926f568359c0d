-- KEYS: limits. ARGV: true-ups (packed).
true_up(cmsgpack.unpack(ARGV[1]), 1)
return 'OK'
