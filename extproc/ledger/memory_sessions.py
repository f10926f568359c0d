"""Sessions in memory: the twin of `sessions.RedisSessions` for tests and for trying things out."""

from __future__ import annotations

from collections.abc import Callable

from extproc.core.routing.sessions import Memory, pack
from extproc.ledger.memory import wall_clock_ms
from extproc.ledger.sessions import Sessions, told


class MemorySessions(Sessions):
    """Same answers as RedisSessions; `clock` gives milliseconds since the epoch. At most `most`: the oldest go."""

    def __init__(self, clock: Callable[[], int] = wall_clock_ms, most: int = 100_000) -> None:
        self._clock = clock
        self._most = most
        self._kept: dict[tuple[str, str], tuple[int, bytes, bool]] = {}

    async def get(self, org: str, session: str) -> Memory | None:
        """Return what is remembered."""
        until, packed, escalated = self._kept.get((org, session), (0, b"", False))
        if until > self._clock():
            return told(packed, escalated=escalated)
        self._kept.pop((org, session), None)
        return None

    async def put(self, org: str, session: str, memory: Memory, keep_ms: int) -> None:
        """Remember."""
        until, _, escalated = self._kept.pop((org, session), (0, b"", False))
        escalated = memory.escalated or (escalated and until > self._clock())
        self._kept[org, session] = (self._clock() + max(keep_ms, 1), pack(memory), escalated)
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
