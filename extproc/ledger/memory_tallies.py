"""Shared counters in memory: the twin of `tallies.RedisTallies` for tests and for trying things out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from extproc.ledger.memory import wall_clock_ms
from extproc.ledger.tallies import MOST_FIELDS, OTHER, Tallies


class MemoryTallies(Tallies):
    """Same sums and limits as RedisTallies; `clock` gives milliseconds since the epoch."""

    def __init__(self, clock: Callable[[], int] = wall_clock_ms, most_fields: int = MOST_FIELDS) -> None:
        self._clock = clock
        self._most = most_fields
        self._hashes: dict[tuple[str, int | None], tuple[int, dict[str, int]]] = {}

    async def add(self, scope: str, bucket: int, counts: Mapping[str, int], keep_ms: int) -> None:
        """Add to a bucket's counters."""
        values = self._kept((scope, bucket), counts, keep_ms)
        for field, amount in counts.items():
            name = field if field in values or len(values) < self._most else OTHER
            values[name] = values.get(name, 0) + amount

    async def put(self, scope: str, values: Mapping[str, int], keep_ms: int) -> None:
        """Raise values that are lower."""
        known = self._kept((scope, None), values, keep_ms)
        for field, amount in values.items():
            if field in known or len(known) < self._most:
                known[field] = max(known.get(field, amount), amount)

    async def read(self, scope: str, buckets: Sequence[int]) -> list[dict[str, int]]:
        """Return the counters of these buckets."""
        return [dict(self._live((scope, bucket))) for bucket in buckets]

    async def got(self, scope: str) -> dict[str, int]:
        """Return all values that were put."""
        return dict(self._live((scope, None)))

    def _kept(self, key: tuple[str, int | None], told: Mapping[str, int], keep_ms: int) -> dict[str, int]:
        """The hash to write into, which lives on from now; nothing is made where nothing is told."""
        values = self._live(key)
        if told:
            self._hashes[key] = (self._clock() + keep_ms, values)
        return values

    def _live(self, key: tuple[str, int | None]) -> dict[str, int]:
        until, values = self._hashes.get(key, (0, {}))
        if until > self._clock():
            return values
        self._hashes.pop(key, None)
        return {}
