"""The explanations of decisions that the store keeps, for the admin address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from extproc.ledger.cluster import Door, open_door
from extproc.ledger.explained import ExplainedStore

if TYPE_CHECKING:
    from extproc.core.routing.explanation import Explanation

TIMEOUT = 2.0
"""Seconds that the admin address waits for the store."""


class Explanations:
    """Asks the store at `url`, from the first question on."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._door: Door | None = None

    async def get(self, rid: str) -> Explanation | None:
        """What is kept of a decision. Raises LedgerUnavailable."""
        from extproc.core.routing.explanation import unpack  # the text model behind it would slow the start

        if self._door is None:
            self._door = open_door(self._url, connect_timeout=TIMEOUT, call_timeout=TIMEOUT)
        blob = await ExplainedStore(self._door).get(rid)
        return None if blob is None else unpack(blob)

    async def close(self) -> None:
        """End the connection, if there is one."""
        if self._door is not None:
            await self._door.close()
