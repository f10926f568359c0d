"""Explanations of decisions, kept for a while under the request's id: `why:{<request id>}`.

They are worth less than the request: nobody waits for a write, what the store does not take is counted and lost, and a
busy worker writes only so many per second, because each one takes up to 2 KB until it expires.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Protocol

from extproc.ledger.cluster import Door
from extproc.ledger.link import Reply
from extproc.ledger.memory import wall_clock_ms

PER_SECOND = 20
NOT_KEPT = ("it is unknown, or longer ago than explain.keep, or came in a second that had more requests than "
            "explain.per_second")
Blob = bytes | Callable[[], bytes]
"""An explanation, or what makes it: called only where it is kept."""
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def is_id(text: str) -> bool:
    """Whether the text is a request id: 32 hex digits."""
    return _ID.fullmatch(text) is not None


class Explained(Protocol):
    """Explanations by request id, in a store or in memory."""

    def put(self, rid: str, blob: Blob, keep_ms: int) -> bool:
        """Keep an explanation that long; do not wait. False: it is one too many in this second, or `keep_ms` is 0."""
        ...

    async def get(self, rid: str) -> bytes | None:
        """Return the explanation of a request; None: there is none, or none any more. Raises LedgerUnavailable."""
        ...


class Pace:
    """At most so many per second. `clock`: seconds."""

    def __init__(self, per_second: int, clock: Callable[[], float]) -> None:
        self.per_second, self._clock = per_second, clock
        self._second, self._taken = -1, 0

    def take(self) -> bool:
        """Take one of this second's places; False: there is none left."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self.per_second


class ExplainedStore(Explained):
    """Explanations on Redis or Valkey. `lost`: how many writes the store did not take."""

    def __init__(self, door: Door, per_second: int = PER_SECOND) -> None:
        """`door`: the connection, usually the ledger's own (`RedisLedger.door`), whose pipeline takes the writes."""
        self._door = door
        self._pace = Pace(per_second, lambda: asyncio.get_running_loop().time())
        self.lost = 0

    def put(self, rid: str, blob: Blob, keep_ms: int) -> bool:
        """Send an explanation with whatever else this tick sends."""
        if keep_ms <= 0 or not self._pace.take():
            return False
        self._door.call(("SET", _key(rid), _made(blob), "PX", keep_ms)).add_done_callback(self._told)
        return True

    def _told(self, reply: asyncio.Future[Reply]) -> None:
        self.lost += reply.cancelled() or reply.exception() is not None

    async def get(self, rid: str) -> bytes | None:
        """Return the explanation of a request."""
        return await self._door.call(("GET", _key(rid)))


def _made(blob: Blob) -> bytes:
    return blob if isinstance(blob, bytes) else blob()


def _key(rid: str) -> str:
    return f"why:{{{rid}}}"


class MemoryExplained(Explained):
    """The twin in memory; `clock` gives milliseconds since the epoch."""

    def __init__(self, clock: Callable[[], int] = wall_clock_ms, per_second: int = PER_SECOND) -> None:
        self._clock = clock
        self._pace = Pace(per_second, lambda: clock() / 1000)
        self._kept: dict[str, tuple[bytes, int]] = {}

    def put(self, rid: str, blob: Blob, keep_ms: int) -> bool:
        """Keep an explanation that long."""
        if keep_ms <= 0 or not self._pace.take():
            return False
        self._kept[rid] = (_made(blob), self._clock() + keep_ms)
        return True

    async def get(self, rid: str) -> bytes | None:
        """Return the explanation of a request."""
        blob, until = self._kept.get(rid, (None, 0))
        if self._clock() >= until:
            self._kept.pop(rid, None)
            return None
        return blob
