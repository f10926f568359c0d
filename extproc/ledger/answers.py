"""Who answered a request, kept for a while under its id, so that the client's word on the answer finds the backend.

Like explanations they are worth less than the request: nobody waits for a write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from extproc.ledger.cluster import Door
from extproc.ledger.link import Reply
from extproc.ledger.memory import wall_clock_ms

MOST = 100_000
"""Answers, and words on them, that the memory twin keeps."""


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """One answer. `prior`: the chance of success that was promised, in thousandths."""

    org: str
    team: str
    key: str
    cell: str
    backend: str
    prior: int


class Answers(Protocol):
    """Answers by request id, in a store or in memory."""

    def put(self, rid: str, answered: Answered, keep_ms: int) -> None:
        """Keep for that long; do not wait."""
        ...

    async def get(self, rid: str) -> Answered | None:
        """Return who answered a request; None: it is not kept, or not any more. Raises LedgerUnavailable."""
        ...

    async def once(self, rid: str, keep_ms: int) -> bool:
        """Whether this is the first word on an answer for that long. Raises LedgerUnavailable."""
        ...


class RedisAnswers(Answers):
    """Answers on Redis or Valkey. `lost`: how many writes the store did not take."""

    def __init__(self, door: Door) -> None:
        """`door`: the connection, usually the ledger's own (`RedisLedger.door`)."""
        self._door = door
        self.lost = 0

    def put(self, rid: str, answered: Answered, keep_ms: int) -> None:
        """Send with whatever else this tick sends."""
        blob = msgspec.msgpack.encode(answered)
        self._door.call(("SET", f"answer:{{{rid}}}", blob, "PX", max(keep_ms, 1))).add_done_callback(self._told)

    def _told(self, reply: asyncio.Future[Reply]) -> None:
        self.lost += reply.cancelled() or reply.exception() is not None

    async def get(self, rid: str) -> Answered | None:
        """Return who answered."""
        reply: Any = await self._door.call(("GET", f"answer:{{{rid}}}"))
        return None if reply is None else _read(reply)

    async def once(self, rid: str, keep_ms: int) -> bool:
        """Whether it is the first word."""
        return await self._door.call(("SET", f"rated:{{{rid}}}", b"1", "NX", "PX", max(keep_ms, 1))) is not None


class MemoryAnswers(Answers):
    """The twin in memory; `clock` gives milliseconds since the epoch."""

    def __init__(self, clock: Callable[[], int] = wall_clock_ms) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[bytes, int]] = {}
        self._rated: dict[str, int] = {}

    def put(self, rid: str, answered: Answered, keep_ms: int) -> None:
        """Keep for that long."""
        self._kept[rid] = (msgspec.msgpack.encode(answered), self._clock() + max(keep_ms, 1))
        while len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]

    async def get(self, rid: str) -> Answered | None:
        """Return who answered."""
        blob, until = self._kept.get(rid, (b"", 0))
        return _read(blob) if until > self._clock() else None

    async def once(self, rid: str, keep_ms: int) -> bool:
        """Whether it is the first word."""
        now = self._clock()
        first = self._rated.get(rid, 0) <= now
        if first:
            self._rated[rid] = now + max(keep_ms, 1)
            while len(self._rated) > MOST:
                del self._rated[next(iter(self._rated))]
        return first


def _read(blob: bytes) -> Answered | None:
    """None: it is of another version."""
    try:
        return _decode(blob)
    except msgspec.DecodeError:
        return None


_decode = msgspec.msgpack.Decoder(Answered).decode
