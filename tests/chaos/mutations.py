"""Ways to break the scripts, one guarantee each: the driver must notice every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from extproc.ledger import redis_ledger, redis_treasury
from extproc.ledger.scripts import Script

MUTATIONS = {
    "no top-up": ("if short > 0 or short_tokens > 0 then", "if false then"),
    "no done test": ("if find(ended, 2, n) or (record[STATE] == EXPIRED", "if (record[STATE] == EXPIRED"),
    "no tombstone": ("redis.call('HSET', tombs, rid, 1)", ""),
    "no tombstone test in reserve": ("if redis.call('HEXISTS', KEYS[3], rid) == 1 or made", "if made"),
    "no epoch test": ("if tonumber(epoch) ~= ask[1] then return 'STALE' end", ""),
    "reserved left out of free": ("budget[3] - s - r - x", "budget[3] - s - x"),
    "expiry charges nothing": ("local cost, tokens = total(open, 5, 2), total(open, 5, 3)", "local cost, tokens = 0, 0"),
    "numbers by concatenation": ("return string.format('%.0f', n + 0)", "return n .. ''"),
}
"""What is replaced by what, in every script that has it."""


def scripts() -> list[Script]:
    """Return all scripts of the ledger."""
    modules = (redis_ledger, redis_treasury)
    return [value for module in modules for value in vars(module).values() if isinstance(value, Script)]


CHECKED = """
local declared, several = {}, {MGET = true}
for _, key in ipairs(KEYS) do declared[key] = true end
local function checked(name, ...)
  local arguments = {...}
  for i = 1, name == 'TIME' and 0 or several[name] and #arguments or 1 do
    if not declared[arguments[i]] then error('undeclared key ' .. tostring(arguments[i])) end
  end
  return redis.call(name, ...)
end
"""
"""A stand-in for redis.call that fails on a key that is not in KEYS."""


@contextmanager
def checking_keys() -> Iterator[None]:
    """Make every script fail when it touches a key that its caller did not declare."""
    originals = [(script, script.text) for script in scripts()]
    for script, text in originals:
        flags, _, body = text.partition("\n")
        script.use(f"{flags}\n{CHECKED}{body.replace('redis.call(', 'checked(')}")
    try:
        yield
    finally:
        for script, text in originals:
            script.use(text)


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Break the scripts for a while. Raises AssertionError when none of them has the text."""
    before, after = MUTATIONS[name]
    originals = [(script, script.text) for script in scripts()]
    changed = [script for script in scripts() if before in script.text]
    assert changed, f"no script has the text of the mutation {name!r}"
    for script in changed:
        script.use(script.text.replace(before, after))
    try:
        yield
    finally:
        for script, text in originals:
            script.use(text)
