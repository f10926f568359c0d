"""Sessions in the store: any worker finds what another one remembered, also after a restart.

One hash `s:<org>:<session>` each, spread over a cluster. They are a convenience, never money: losing one costs a prompt
cache. A store that does not answer in time raises, and the request goes on without.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from extproc.core.routing.sessions import Memory, pack, unpack
from extproc.ledger.cluster import Door
from extproc.ledger.scripts import Script

_PUT = Script("session", 1)


class Sessions(Protocol):
    """What is remembered of sessions, in a store or in memory."""

    async def get(self, org: str, session: str) -> Memory | None:
        """Return what is remembered; None where nothing is. Raises LedgerUnavailable."""
        ...

    async def put(self, org: str, session: str, memory: Memory, keep_ms: int) -> None:
        """Remember for `keep_ms` from now; once escalated, a session stays so. Raises LedgerUnavailable."""
        ...


class RedisSessions(Sessions):
    """The sessions on Redis or Valkey."""

    def __init__(self, door: Door) -> None:
        """`door`: the connection, usually the ledger's own (`RedisLedger.door`); calls of one tick go out together."""
        self._door = door

    async def get(self, org: str, session: str) -> Memory | None:
        """Return what is remembered."""
        reply: Any = await self._door.call(("HMGET", _key(org, session), "m", "e"))
        packed: bytes | None = reply[0]
        return None if packed is None else told(packed, escalated=reply[1] is not None)

    async def put(self, org: str, session: str, memory: Memory, keep_ms: int) -> None:
        """Remember."""
        await _PUT.run(self._door, _key(org, session), pack(memory), "1" if memory.escalated else "0", max(keep_ms, 1))


def told(packed: bytes, *, escalated: bool) -> Memory | None:
    """Return a stored memory; None where it cannot be read."""
    memory = unpack(packed)
    if memory is None or memory.escalated or not escalated:
        return memory
    return msgspec.structs.replace(memory, escalated=True)


def _key(org: str, session: str) -> str:
    return f"s:{org}:{session}"
