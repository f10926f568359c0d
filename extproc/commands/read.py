"""Reading the books in pages: the usage stream and the daily rollups never lie in memory as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from extproc.ledger.cluster import Door
from extproc.ledger.keyspace import keys_of, read_row
from extproc.money.amounts import HORIZON_MS
from extproc.pb import usage_pb2 as pb
from extproc.reports.periods import Period

PAGE = 1_000
_CLOSES_WITHIN_MS = HORIZON_MS + 86_400_000
"""After its admission a request is recorded and corrected within the ledger's horizon; a day more for long streams."""
_SKEW_MS = 3_600_000
"""Admissions have a worker's time, the stream has the store's."""


async def records(door: Door, org: str, period: Period, page: int = PAGE) -> AsyncIterator[tuple[int, pb.UsageRecord]]:
    """Return the records of the stream that can belong to the period, each with the moment (ms) it was appended.

    Raises LedgerUnavailable.
    """
    log, end = keys_of(org).log, str(period.end_ms + _CLOSES_WITHIN_MS)
    start: bytes = str(max(period.start_ms - _SKEW_MS, 0)).encode()
    while True:
        entries: list[Any] = await door.call(("XRANGE", log, start, end, "COUNT", page))
        for entry, fields in entries:
            yield int(entry.partition(b"-")[0]), pb.UsageRecord.FromString(fields[1])
        if len(entries) < page:
            return
        start = b"(" + entries[-1][0]


async def rollups(door: Door, org: str, day: str, page: int = PAGE) -> AsyncIterator[dict[str, str | int]]:
    """Return the rollup rows of a day (UTC). Raises LedgerUnavailable."""
    keys, cursor = keys_of(org), b"0"
    seen: set[bytes] = set()  # a scan may name a row twice
    while True:
        cursor, ids = await door.call(("SSCAN", keys.rows(day), cursor, "COUNT", page))
        fresh = [row for row in dict.fromkeys(ids) if row not in seen]
        seen.update(fresh)
        flat = await asyncio.gather(*(door.call(("HGETALL", keys.row(day, row.decode()))) for row in fresh))
        for fields in flat:
            yield read_row(fields)
        if cursor == b"0":
            return
