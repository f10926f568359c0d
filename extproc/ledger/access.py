"""What a user of the store must be allowed to do, and the question whether it is: asked once, before any request.

A right that is missing must be found at the start: in the middle of a script it would leave half of a call done.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import Door, Wait
from extproc.ledger.link import StoreRefused, Word
from extproc.ledger.redis_treasury import RedisTreasury

CONNECT_TIMEOUT, CALL_TIMEOUT = 2.0, 5.0
"""Seconds: before the first request nobody waits impatiently, and a store on its way up may be slow."""
_SERVER: tuple[str, ...] = (
    "asking", "cluster|slots", "config|get", "eval", "evalsha", "info", "ping", "script|load", "wait")
_PROBES: dict[str, tuple[Word, ...]] = {
    "del": (), "exists": (), "expire": (1,), "get": (), "hdel": ("f",), "hexists": ("f",), "hget": ("f",),
    "hgetall": (), "hincrby": ("f", 1), "hlen": (), "hmget": ("f",), "hset": ("f", "v"), "mget": (),
    "pexpire": (1000,), "pexpireat": (9_999_999_999_999,), "sadd": ("m",), "scard": (), "set": ("", "PX", 1000),
    "smembers": (), "srem": ("m",), "sscan": (0,), "time": (), "xadd": ("*", "f", "v"), "xgroup|create": ("g", "0"),
    "xgroup|setid": ("g", "0"), "xinfo|groups": (), "xinfo|stream": (), "xlen": (), "xpending": ("g",),
    "xrange": ("-", "+"), "xrevrange": ("+", "-"), "xtrim": ("MINID", "0"), "zadd": (0, "m"), "zcard": (),
    "zrange": (0, 0), "zrangebylex": ("-", "+"), "zrangebyscore": (0, 0), "zrem": ("m",),
    "zremrangebyscore": (0, 0), "zscore": ("m",),
}  # fmt: skip
"""Commands on keys, with words behind the key that do nothing to a key of another type."""
OPERATORS_ONLY = frozenset({
    "hdel", "sscan", "xgroup|create", "xgroup|setid", "xinfo|groups", "xpending", "xrevrange", "xtrim", "zcard",
    "zrangebylex",
})
"""What reports, exports and changes of keys need, and workers do not."""
WORKER = (*_SERVER, *(name for name in _PROBES if name not in OPERATORS_ONLY))
"""Rights of the gateway's own user, in the words of ACL SETUSER."""
OPERATOR = (*_SERVER, *_PROBES)
"""Rights of a user for all commands of `extproc`; the gateway may use it as well."""
_ORGS = "orgs"
_NO_KEY = re.compile(r"access (a key|one of the keys)")
"""What Valkey and Redis say of keys; all other refusals are of commands."""

_PROBE = """
local key, denied = KEYS[1], {}
for i, words in ipairs(cmsgpack.unpack(ARGV[1])) do
  local reply = redis.pcall(unpack(words))
  if type(reply) == 'table' and reply.err and not string.find(reply.err, 'WRONGTYPE', 1, true) then
    denied[#denied + 1] = ARGV[1 + i]
    if i == 1 then return denied end -- without the string there, the others would write
  end
end
return denied
"""


def patterns(org: str = "*") -> tuple[str, ...]:
    """Return the keys that a user needs, as patterns of ACL SETUSER. `org`: one that is served, `*`: any."""
    named = ("{*}:*",) if org == "*" else (f"{{{org}}}:*", "{keys}:*", "{be:*}:*", "{t:*}:*")
    return *named, "why:*", _ORGS


def acl(user: str, rights: tuple[str, ...], org: str = "*", password: str = "PASSWORD") -> str:  # noqa: S107
    """Return the ACL SETUSER line that gives exactly these rights."""
    keys = " ".join(f"~{pattern}" for pattern in patterns(org))
    return f"ACL SETUSER {user} reset on >{password} {keys} " + " ".join(f"+{right}" for right in rights)


async def missing(door: Door, org: str, rights: tuple[str, ...] = WORKER) -> list[str]:
    """Return what the store does not let this user do: commands, and keys. Nothing stays written but the org's name.

    Raises LedgerUnavailable; StoreRefused where not even the question may be asked.
    """
    found: dict[str, None] = {}
    asked = [name for name in rights if name in _PROBES and name not in ("set", "del")]
    for pattern in patterns(org)[:-1]:
        key = pattern.replace("*", "probe")
        commands = ["set", *asked, *(["del"] if "del" in rights else [])]
        words = [_words(name, key) for name in commands]
        blob = msgspec.msgpack.encode(words)
        try:
            await _unknown_script(door, key)
            denied: list[bytes] = await door.call(("EVAL", _PROBE, 1, key, blob, *commands))
        except StoreRefused as error:
            if not _NO_KEY.search(str(error)):
                raise
            found[f"keys {pattern}"] = None
            continue
        found |= dict.fromkeys(name.decode() for name in denied)
    for words in (("SADD", _ORGS, org), ("SMEMBERS", _ORGS)):
        try:
            await door.call(words)
        except StoreRefused:
            if words[0].lower() not in found:
                found[f"keys {_ORGS}"] = None
    return list(found)


async def _unknown_script(door: Door, key: str) -> None:
    """Ask for a script that nobody has: that it is unknown is the answer hoped for."""
    try:
        await door.call(("EVALSHA", "0" * 40, 1, key))
    except LedgerUnavailable as error:
        if not str(error).startswith("NOSCRIPT"):
            raise


def _words(name: str, key: str) -> list[Word]:
    command, _, sub = name.partition("|")
    if name == "time":
        return [command]
    return [command, *([sub] if sub else []), key, *_PROBES[name]]


async def verify(url: str, org: str, *, wait: Wait = 0) -> list[str]:
    """Ask a store whether a gateway can rest on it; return warnings, one line each.

    Raises AddressRefused, StoreRefused (password, certificate, rights), LedgerMisconfigured (it may evict keys) or
    LedgerUnavailable (it does not answer), within some seconds and never with a password in the text.
    """
    ledger = RedisTreasury(url, connect_timeout=CONNECT_TIMEOUT, call_timeout=CALL_TIMEOUT, wait=wait)
    try:
        warning = await ledger.check()
        if denied := await missing(ledger.door, org):
            raise StoreRefused(f"refused: this user lacks rights: {', '.join(denied)}")
    finally:
        await ledger.close()
    return [] if warning is None else [warning]


def sentence(error: Any, place: str) -> str:
    """Return one line that says what to do about a store that cannot be used. `place`: its address without password."""
    if isinstance(error, StoreRefused):
        return (f"the store at {place} lets nobody in with this address ({error}); check user, password and rights, "
                "and for rediss:// the certificate: ?ca=FILE names who signed it")
    return (f"the store at {place} does not answer ({error}); start it, or give its address with --redis-url or "
            "REDIS_URL")
