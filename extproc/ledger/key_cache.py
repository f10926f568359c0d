"""What a worker remembers of gateway keys, so that a request costs no round trip and an outage no service."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from extproc.core.identity import Caller
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.keys import Keys

RETRY_AFTER = 1.0
"""Seconds after a failed lookup in which remembered keys are answered without asking again."""


class KeyCache:
    """Looks keys up once for all who ask at once, and remembers the answers: times in seconds.

    A key that was revoked or changed is the old one for at most `ttl`; one that was just made is unknown for at most
    `negative_ttl` where it was asked for before. Known and unknown keys are remembered apart, `most` of each, so that
    guesses of strangers drive no known key out.
    """

    def __init__(
        self,
        store: Keys,
        *,
        ttl: float = 5.0,
        negative_ttl: float = 1.0,
        stale: float = 60.0,
        most: int = 50_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stale`: how long after its `ttl` a known key still holds while the store does not answer."""
        self._store, self._clock, self._most = store, clock, most
        self._ttl, self._negative_ttl, self._stale = ttl, negative_ttl, stale
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._failed = float("-inf")

    def peek(self, digest: bytes) -> tuple[bool, Caller | None]:
        """Return (True, answer) where `find` would not need the store, else (False, None)."""
        now = self._clock()
        if (found := self._known.get(digest)) is not None and now - found[0] < self._ttl:
            self._known.move_to_end(digest)
            return True, found[1]
        if (asked := self._unknown.get(digest)) is not None and now - asked < self._negative_ttl:
            self._unknown.move_to_end(digest)
            return True, None
        return False, None

    async def find(self, digest: bytes) -> Caller | None:
        """Return who holds the key with this SHA-256 (32 bytes), None where it is unknown or revoked.

        Raises LedgerUnavailable where the store does not answer and the key was not known lately.
        """
        fresh, caller = self.peek(digest)
        if fresh:
            return caller
        known = self._lately(digest)
        if known is not None and self._clock() - self._failed < RETRY_AFTER:
            return known
        try:
            return await asyncio.shield(self._flight(digest))
        except LedgerUnavailable:
            self._failed = self._clock()
            if known is None:
                raise
            return known

    def _lately(self, digest: bytes) -> Caller | None:
        found = self._known.get(digest)
        if found is None or self._clock() - found[0] >= self._ttl + self._stale:
            return None
        return found[1]

    def _flight(self, digest: bytes) -> asyncio.Task[Caller | None]:
        """Return the lookup of this key that is under way; one who leaves does not end it for the others."""
        task = self._flights.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(digest))
            self._flights[digest] = task
            task.add_done_callback(lambda _: self._flights.pop(digest))
        return task

    async def _fetch(self, digest: bytes) -> Caller | None:
        caller = await self._store.get(digest)
        now = self._clock()
        if caller is None:
            self._known.pop(digest, None)
            self._unknown[digest] = now
            self._unknown.move_to_end(digest)
            if len(self._unknown) > self._most:
                self._unknown.popitem(last=False)
        else:
            self._known[digest] = now, caller
            self._known.move_to_end(digest)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return caller
