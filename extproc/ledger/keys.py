"""Gateway keys in the store: who may call, known by the SHA-256 of a random secret and never by the secret.

Everything lies under the hash tag `{keys}`: one hash `{keys}:k:<sha256 hex>` per key, and two sorted sets that are read
by ranges, so that no command walks all keys: `{keys}:n` has `<name> NUL <hex>`, `{keys}:d` has `<hex>`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import unicodedata
from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol, cast

import msgspec

from extproc.core.identity import Caller
from extproc.ledger.cluster import Door
from extproc.ledger.link import Word
from extproc.ledger.scripts import Script

PREFIX = "gw-"
PAGE = 500
PURGED_AT_ONCE = 100
"""Keys of one call of a purge: the store serves nobody else meanwhile."""
LONGEST_NAME = 64
LONGEST_TERM_MS = 100 * 365 * 86_400_000
_NAMES, _DIGESTS = "{keys}:n", "{keys}:d"

PutCode = Literal["DONE", "TAKEN", "NONE", "DUP"]
ChangeCode = Literal["DONE", "REVOKED", "NONE"]
State = Literal["live", "revoked", "expired", "not yet"]


class KeyRefused(ValueError):  # noqa: N818 - the caller's mistake, said in words
    """A key cannot be as it was asked for; the text says what is allowed."""


class KeyRecord(msgspec.Struct, frozen=True):
    """One key as it is stored. `digest`: SHA-256 of the secret, 64 hex digits; times in ms since the epoch, 0: none."""

    digest: str
    caller: Caller
    created: int = 0
    revoked: int = 0
    replaced: int = 0

    def state(self, now: int) -> State:
        """Whether the key is in force at that moment (ms since the epoch)."""
        if self.revoked:
            return "revoked"
        if self.caller.valid(now):
            return "live"
        return "not yet" if now < self.caller.since else "expired"


class Changes(msgspec.Struct, frozen=True):
    """What to change of a key; None: leave it. An empty `routes` takes the restriction away; `expires` 0: never."""

    team: str | None = None
    project: str | None = None
    user: str | None = None
    routes: tuple[str, ...] | None = None
    expires: int | None = None


class Keys(Protocol):
    """The keys of a gateway, in a store or in memory."""

    async def create(self, digest: str, caller: Caller, term_ms: int = 0) -> PutCode:
        """Add a key, valid for `term_ms` from now (0: for ever). TAKEN: a key in force has the caller's name.

        Raises KeyRefused for names that cannot be stored.
        """
        ...

    async def rotate(self, name: str, digest: str, overlap_ms: int, term_ms: int | None = None) -> PutCode:
        """Put a key in place of the one in force of that name, which stays valid for `overlap_ms` more.

        The new one is its copy, valid as long as it was to be unless `term_ms` says else. NONE: there is none.
        """
        ...

    async def get(self, digest: bytes) -> Caller | None:
        """Return who holds the key with this SHA-256 (32 bytes), None where it is unknown or revoked.

        Whether it has expired is for the caller to see: `Caller.valid`.
        """
        ...

    async def named(self, name: str) -> list[KeyRecord]:
        """Return all keys of that name, in force or not."""
        ...

    async def starting(self, prefix: str, most: int = 2) -> list[KeyRecord]:
        """Return the first keys whose digest starts with these hex digits."""
        ...

    def pages(self, size: int = PAGE) -> AsyncIterator[list[KeyRecord]]:
        """Return all keys by name, so many at a time; a key made or changed meanwhile may be in or not."""
        ...

    async def revoke(self, digest: str) -> ChangeCode:
        """End a key for good."""
        ...

    async def change(self, digest: str, changes: Changes) -> ChangeCode:
        """Change what a key may do or whom it stands for. Raises KeyRefused."""
        ...

    async def expire(self, digest: str, at_ms: int) -> ChangeCode:
        """Let a key end at that moment (ms since the epoch, 0: never)."""
        ...

    async def purge(self, older_ms: int, *, dry: bool = False) -> int:
        """Forget the keys that were revoked or expired at least so long ago; return how many. `dry`: only count them.

        Records of usage keep their names.
        """
        ...


def new_secret() -> str:
    """Return a secret of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 by which a secret is known: the lookup's time tells of this, never of the secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def clean_name(what: str, text: str, *, empty: bool = True) -> str:
    """Return the text in Unicode's composed form. Raises KeyRefused unless it is short, printable and not padded."""
    text = unicodedata.normalize("NFC", text)
    if not text and not empty:
        raise KeyRefused(f"the {what} is empty; give one")
    if len(text) > LONGEST_NAME or not text.isprintable() or text != text.strip():
        raise KeyRefused(f"the {what} {text[:LONGEST_NAME]!r} is not allowed: at most {LONGEST_NAME} printable "
                         "characters, without blanks around them")
    return text


def clean_org(text: str) -> str:
    """Return the name of an org. It becomes a hash tag of the store's keys, so it may be none of those that are in use.

    Raises KeyRefused.
    """
    text = clean_name("org", text, empty=False)
    if text in ("keys", "*") or any(mark in text for mark in "{}:"):
        raise KeyRefused(f"the org {text!r} is not allowed: any name but keys and *, without braces and colons")
    return text


def clean(caller: Caller) -> Caller:
    """Return the caller with all names in composed form. Raises KeyRefused."""
    parts = {part: clean_name(part, getattr(caller, part), empty=part != "team")
             for part in ("team", "project", "user")}
    return msgspec.structs.replace(caller, key=clean_name("name", caller.key, empty=False), org=clean_org(caller.org),
                                   routes=None if caller.routes is None else clean_routes(caller.routes), **parts)


def clean_routes(routes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the routes without repetition. Raises KeyRefused."""
    return tuple(dict.fromkeys(clean_name("route", route, empty=False) for route in routes))


def check_term(term_ms: int) -> int:
    """Return a length of time in ms. Raises KeyRefused for what no clock will see."""
    if not 0 <= term_ms <= LONGEST_TERM_MS:
        raise KeyRefused("a time from now must be between 0 and 36500d")
    return term_ms


class KeyStore(Keys):
    """The keys on Redis or Valkey; every call raises LedgerUnavailable where the store does not answer."""

    def __init__(self, door: Door) -> None:
        """`door`: the connection, usually the ledger's own (`RedisLedger.door`)."""
        self._door = door

    async def create(self, digest: str, caller: Caller, term_ms: int = 0) -> PutCode:
        """Add a key."""
        caller = clean(caller)
        return await self._put(caller.key, digest, "create", 0, check_term(term_ms), _words(caller))

    async def rotate(self, name: str, digest: str, overlap_ms: int, term_ms: int | None = None) -> PutCode:
        """Put a key in place of another."""
        name, term = clean_name("name", name, empty=False), "" if term_ms is None else check_term(term_ms)
        return await self._put(name, digest, "rotate", check_term(overlap_ms), term, ())

    async def _put(
        self, name: str, digest: str, how: str, overlap: int, term: Word, fields: tuple[Word, ...]
    ) -> PutCode:
        declared: tuple[Word, ...] = (_NAMES, _DIGESTS, _key(digest))
        more: tuple[Word, ...] = ()
        while True:
            words = (*declared, *more, name, digest, how, overlap, term, *fields)
            reply: Any = await _PUT.run(self._door, *words, keys=len(declared) + len(more), durable=True)
            if not isinstance(reply, list):
                return cast("PutCode", reply.decode())
            more = tuple(cast("list[bytes]", reply)[1:])

    async def get(self, digest: bytes) -> Caller | None:
        """Return who holds a key."""
        record = _record(digest.hex(), await self._door.call(("HGETALL", _key(digest.hex()))))
        return None if record is None or record.revoked else record.caller

    async def named(self, name: str) -> list[KeyRecord]:
        """Return all keys of a name."""
        text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")
        return await self._read(
            await self._door.call(("ZRANGEBYLEX", _NAMES, b"[%b\0" % text, b"(%b\1" % text)))

    async def starting(self, prefix: str, most: int = 2) -> list[KeyRecord]:
        """Return the first keys whose digest starts so."""
        if not prefix.isascii():
            return []
        words: tuple[Word, ...] = ("ZRANGEBYLEX", _DIGESTS, f"[{prefix}", f"({prefix}g", "LIMIT", 0, most)
        return await self._read(await self._door.call(words))

    async def pages(self, size: int = PAGE) -> AsyncIterator[list[KeyRecord]]:
        """Return all keys, page by page."""
        start = b"-"
        while True:
            members: list[bytes] = await self._door.call(("ZRANGEBYLEX", _NAMES, start, "+", "LIMIT", 0, size))
            if not members:
                return
            yield await self._read(members)
            start = b"(" + members[-1]

    async def _read(self, members: list[bytes]) -> list[KeyRecord]:
        digests = [_digest(member) for member in members]
        flat = await asyncio.gather(*(self._door.call(("HGETALL", _key(digest))) for digest in digests))
        found = (_record(digest, fields) for digest, fields in zip(digests, flat, strict=True))
        return [record for record in found if record is not None]

    async def revoke(self, digest: str) -> ChangeCode:
        """End a key for good."""
        return await self._change(digest, "revoke")

    async def change(self, digest: str, changes: Changes) -> ChangeCode:
        """Change a key."""
        return await self._change(digest, "change", *_changed(changes))

    async def expire(self, digest: str, at_ms: int) -> ChangeCode:
        """Let a key end at that moment."""
        return await self.change(digest, Changes(expires=at_ms))

    async def purge(self, older_ms: int, *, dry: bool = False) -> int:
        """Forget keys that are over."""
        start, found = b"-", 0
        while True:
            words: tuple[Word, ...] = ("ZRANGEBYLEX", _NAMES, start, "+", "LIMIT", 0, PURGED_AT_ONCE)
            members: list[bytes] = await self._door.call(words)
            if not members:
                return found
            declared = (_NAMES, _DIGESTS, *(_key(_digest(member)) for member in members))
            words = (check_term(older_ms), "count" if dry else "remove", *members)
            found += int(await _PURGE.run(self._door, *declared, *words, keys=len(declared), durable=True))
            start = b"(" + members[-1]

    async def _change(self, digest: str, *words: Word) -> ChangeCode:
        reply: bytes = await _CHANGE.run(self._door, _key(digest), *words, durable=True)
        return cast("ChangeCode", reply.decode())


_PUT = Script("key_put", 3)
_CHANGE = Script("key_change", 1)
_PURGE = Script("key_purge", 2)


def _digest(member: bytes) -> str:
    """The digest in a member of either index."""
    return member.rpartition(b"\0")[2].decode()


def _key(digest: str) -> str:
    return f"{{keys}}:k:{digest}"


def _routes(routes: tuple[str, ...] | None) -> str:
    return "" if routes is None else msgspec.json.encode(routes).decode()


def _words(caller: Caller) -> tuple[Word, ...]:
    return ("name", caller.key, "org", caller.org, "team", caller.team, "project", caller.project, "user", caller.user,
            "routes", _routes(caller.routes))


def _changed(changes: Changes) -> list[Word]:
    """Return fields and values in turn."""
    words: list[Word] = []
    for part in ("team", "project", "user"):
        if (value := getattr(changes, part)) is not None:
            words += [part, clean_name(part, value, empty=part != "team")]
    if changes.routes is not None:
        words += ["routes", _routes(clean_routes(changes.routes) or None)]
    if changes.expires is not None:
        words += ["expires", changes.expires]
    return words


def _record(digest: str, flat: list[bytes]) -> KeyRecord | None:
    """Read a key from alternating fields and values; None where there is none."""
    if not flat:
        return None
    found = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
    routes = found.get("routes", "")
    caller = Caller(
        org=found["org"], team=found["team"], project=found["project"], user=found["user"], key=found["name"],
        routes=msgspec.json.decode(routes, type=tuple[str, ...]) if routes else None,
        since=int(found.get("since", 0)), expires=int(found.get("expires", 0)),
    )
    times = [int(found.get(name, 0)) for name in ("created", "revoked", "replaced")]
    return KeyRecord(digest, caller, *times)
