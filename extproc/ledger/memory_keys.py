"""Gateway keys in memory: the twin of `keys.KeyStore` for tests and for trying things out."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Callable

import msgspec

from extproc.core.identity import Caller
from extproc.ledger.keys import (
    PAGE,
    ChangeCode,
    Changes,
    KeyRecord,
    Keys,
    PutCode,
    check_term,
    clean,
    clean_name,
    clean_routes,
)
from extproc.ledger.memory import wall_clock_ms


class MemoryKeyStore(Keys):
    """Same codes and records as KeyStore; `clock` gives milliseconds since the epoch."""

    def __init__(self, clock: Callable[[], int] = wall_clock_ms) -> None:
        self._clock = clock
        self._records: dict[str, KeyRecord] = {}

    async def create(self, digest: str, caller: Caller, term_ms: int = 0) -> PutCode:
        """Add a key."""
        caller, now = clean(caller), self._clock()
        check_term(term_ms)
        if digest in self._records:
            return "DUP"
        if self._live(caller.key):
            return "TAKEN"
        self._add(digest, caller, now, term_ms)
        return "DONE"

    async def rotate(self, name: str, digest: str, overlap_ms: int, term_ms: int | None = None) -> PutCode:
        """Put a key in place of another."""
        name, now = clean_name("name", name, empty=False), self._clock()
        till = now + check_term(overlap_ms)
        if term_ms is not None:
            check_term(term_ms)
        if digest in self._records:
            return "DUP"
        live = self._live(name)
        if not live:
            return "NONE"
        newest = max(live, key=lambda record: (not record.replaced, record.created))
        if term_ms is None:
            term_ms = newest.caller.expires - newest.created if newest.caller.expires else 0
        for record in live:
            end = record.caller.expires
            self._set(record, expires=end if 0 < end <= till else till)
            self._records[record.digest] = msgspec.structs.replace(self._records[record.digest], replaced=now)
        self._add(digest, newest.caller, now, term_ms)
        return "DONE"

    def _add(self, digest: str, caller: Caller, now: int, term_ms: int) -> None:
        caller = msgspec.structs.replace(caller, since=0, expires=now + term_ms if term_ms else 0)
        self._records[digest] = KeyRecord(digest, caller, now)

    def _live(self, name: str) -> list[KeyRecord]:
        now = self._clock()
        return [record for record in self._records.values()
                if record.caller.key == name and record.state(now) == "live"]

    def _set(self, record: KeyRecord, **parts: object) -> None:
        caller = msgspec.structs.replace(record.caller, **parts)
        self._records[record.digest] = msgspec.structs.replace(record, caller=caller)

    async def get(self, digest: bytes) -> Caller | None:
        """Return who holds a key."""
        record = self._records.get(digest.hex())
        return None if record is None or record.revoked else record.caller

    async def named(self, name: str) -> list[KeyRecord]:
        """Return all keys of a name."""
        name = unicodedata.normalize("NFC", name)
        return [record for record in self._sorted() if record.caller.key == name]

    async def starting(self, prefix: str, most: int = 2) -> list[KeyRecord]:
        """Return the first keys whose digest starts so."""
        return [self._records[digest] for digest in sorted(self._records) if digest.startswith(prefix)][:most]

    async def pages(self, size: int = PAGE) -> AsyncIterator[list[KeyRecord]]:
        """Return all keys, page by page."""
        records = self._sorted()
        for start in range(0, len(records), size):
            yield records[start : start + size]

    def _sorted(self) -> list[KeyRecord]:
        return sorted(self._records.values(), key=lambda record: (record.caller.key.encode(), record.digest))

    async def revoke(self, digest: str) -> ChangeCode:
        """End a key for good."""
        code = self._changeable(digest)
        if code == "DONE":
            self._records[digest] = msgspec.structs.replace(self._records[digest], revoked=self._clock())
        return code

    async def change(self, digest: str, changes: Changes) -> ChangeCode:
        """Change a key."""
        parts: dict[str, object] = {
            part: clean_name(part, value, empty=part != "team")
            for part in ("team", "project", "user") if (value := getattr(changes, part)) is not None}
        if changes.routes is not None:
            parts["routes"] = clean_routes(changes.routes) or None
        if changes.expires is not None:
            parts["expires"] = changes.expires
        code = self._changeable(digest)
        if code == "DONE":
            self._set(self._records[digest], **parts)
        return code

    async def expire(self, digest: str, at_ms: int) -> ChangeCode:
        """Let a key end at that moment."""
        return await self.change(digest, Changes(expires=at_ms))

    async def purge(self, older_ms: int, *, dry: bool = False) -> int:
        """Forget keys that are over."""
        before = self._clock() - check_term(older_ms)
        over = [digest for digest, record in self._records.items()
                if any(0 < end <= before for end in (record.revoked, record.caller.expires))]
        for digest in () if dry else over:
            del self._records[digest]
        return len(over)

    def _changeable(self, digest: str) -> ChangeCode:
        record = self._records.get(digest)
        return "NONE" if record is None else "REVOKED" if record.revoked else "DONE"
