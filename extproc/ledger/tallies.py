"""Counters that all workers share: sums by bucket (of time), and moments that are only ever moved on.

They are for statistics, never for money: an `add` repeated after a timeout may count twice. All keys of a scope carry
its hash tag `{t:SCOPE}`: one hash per bucket, and one of maxima.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from extproc.ledger.cluster import Door
from extproc.ledger.link import Word
from extproc.ledger.scripts import Script

MOST_FIELDS = 5_000
"""Fields of one hash; counts of what comes after are summed in the field `other`, maxima are dropped."""
OTHER = "other"
_CHUNK = 500
"""Fields of one call of the script: its arguments lie on Lua's stack."""
_TALLY = Script("tally", 1)


class Tallies(Protocol):
    """Bucketed counters, in a store or in memory. Scopes and fields are names, counts integers."""

    async def add(self, scope: str, bucket: int, counts: Mapping[str, int], keep_ms: int) -> None:
        """Add to a bucket's counters; the bucket lives for `keep_ms` from now. Raises LedgerUnavailable."""
        ...

    async def read(self, scope: str, buckets: Sequence[int]) -> list[dict[str, int]]:
        """Return the counters of these buckets in that order, empty where there are none. Raises LedgerUnavailable."""
        ...

    async def put(self, scope: str, values: Mapping[str, int], keep_ms: int) -> None:
        """Raise values that are lower; all of them live for `keep_ms` from now. Raises LedgerUnavailable."""
        ...

    async def got(self, scope: str) -> dict[str, int]:
        """Return all values that were put. Raises LedgerUnavailable."""
        ...


class RedisTallies(Tallies):
    """The counters on Redis or Valkey."""

    def __init__(self, door: Door, most_fields: int = MOST_FIELDS) -> None:
        """`door`: the connection, usually the ledger's own (`RedisLedger.door`)."""
        self._door = door
        self._most = most_fields

    async def add(self, scope: str, bucket: int, counts: Mapping[str, int], keep_ms: int) -> None:
        """Add to a bucket's counters."""
        await self._run("add", _bucket(scope, bucket), counts, keep_ms)

    async def put(self, scope: str, values: Mapping[str, int], keep_ms: int) -> None:
        """Raise values that are lower."""
        await self._run("put", _maxima(scope), values, keep_ms)

    async def _run(self, how: str, key: str, values: Mapping[str, int], keep_ms: int) -> None:
        words: list[Word] = [word for pair in values.items() for word in pair]
        calls = [_TALLY.run(self._door, key, how, keep_ms, self._most, *words[start : start + 2 * _CHUNK])
                 for start in range(0, len(words), 2 * _CHUNK)]
        await asyncio.gather(*calls)

    async def read(self, scope: str, buckets: Sequence[int]) -> list[dict[str, int]]:
        """Return the counters of these buckets."""
        calls = [self._door.call(("HGETALL", _bucket(scope, bucket))) for bucket in buckets]
        return [_numbers(flat) for flat in await asyncio.gather(*calls)]

    async def got(self, scope: str) -> dict[str, int]:
        """Return all values that were put."""
        return _numbers(await self._door.call(("HGETALL", _maxima(scope))))


def _bucket(scope: str, bucket: int) -> str:
    return f"{{t:{scope}}}:b:{bucket}"


def _maxima(scope: str) -> str:
    return f"{{t:{scope}}}:max"


def _numbers(flat: list[Any]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
