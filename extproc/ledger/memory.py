"""The ledger in memory: the scripts' twin for tests and for trying things out. Gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from extproc.ledger.base import (
    LEASE_MS,
    BeginCode,
    EndCode,
    ExpireCode,
    FinishCode,
    Ledger,
    ReserveCode,
    RollupRow,
    Settlement,
)
from extproc.ledger.redis_ledger import orphan_admission
from extproc.pb import usage_pb2 as pb


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class _Reservation(msgspec.Struct):
    """One hash `{org}:r:<rid>`."""

    admission: bytes
    lease_end: int
    expired: bool = False
    finished: bool = False
    open: dict[int, bytes] = {}
    ended: dict[int, bytes] = {}
    row: RollupRow | None = None


class _Sums(msgspec.Struct):
    """The amounts of one rollup row."""

    requests: int = 0
    input: int = 0
    output: int = 0
    cost: int = 0
    unpriced: int = 0


class _Org(msgspec.Struct):
    """All keys of one org."""

    reservations: dict[bytes, _Reservation] = {}
    tombstones: set[bytes] = set()
    log: list[pb.UsageRecord] = []
    rollups: dict[RollupRow, _Sums] = {}

    def append(self, state: str, admission: bytes, attempts: Iterable[bytes]) -> None:
        self.log.append(
            pb.UsageRecord(
                state=state,
                admission=pb.Admission.FromString(admission),
                attempts=[pb.Attempt.FromString(blob) for blob in attempts],
            )
        )

    def add(self, settlement: Settlement, *, request: bool) -> None:
        sums = self.rollups.setdefault(settlement.row, _Sums())
        sums.requests += request
        sums.input += settlement.input_tokens
        sums.output += settlement.output_tokens
        if settlement.cost is None:
            sums.unpriced += 1
        else:
            sums.cost += settlement.cost

    def count(self, row: RollupRow | None) -> None:
        if row is not None:
            self.rollups[row].requests += 1

    def bury(self, rid: bytes) -> None:
        self.tombstones.add(rid)
        self.reservations.pop(rid, None)


def _in_order(*attempts: dict[int, bytes]) -> list[bytes]:
    merged = {number: blob for part in attempts for number, blob in part.items()}
    return [merged[number] for number in sorted(merged)]


class MemoryLedger(Ledger):
    """Same codes, records and rollups as RedisLedger; `clock` gives milliseconds."""

    def __init__(self, clock: Callable[[], int] = wall_clock_ms) -> None:
        self._clock = clock
        self._orgs: dict[str, _Org] = {}

    def _org(self, org: str) -> _Org:
        return self._orgs.setdefault(org, _Org())

    async def reserve(self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS) -> ReserveCode:
        """Open a reservation."""
        book = self._org(org)
        known = book.reservations.get(rid)
        if known is not None:
            return "GONE" if known.expired or known.finished else "OK"
        if rid in book.tombstones:
            return "GONE"
        book.reservations[rid] = _Reservation(admission, self._clock() + lease_ms)
        return "OK"

    async def begin(
        self, org: str, rid: bytes, attempt: int, need: bytes, lease_ms: int = LEASE_MS
    ) -> BeginCode:
        """Announce an attempt."""
        known = self._org(org).reservations.get(rid)
        if known is None or known.expired or known.finished or attempt in known.ended:
            return "GONE"
        if attempt not in known.open:
            known.open[attempt] = need
            known.lease_end = self._clock() + lease_ms
        return "OK"

    async def end(
        self, org: str, rid: bytes, attempt: int, settlement: Settlement, *, final: bool
    ) -> EndCode:
        """Settle an attempt."""
        book = self._org(org)
        known = book.reservations.get(rid)
        if known is None:
            return self._end_orphan(book, org, rid, settlement)
        if attempt in known.ended or (known.expired and attempt not in known.open):
            return "DUP"
        known.open.pop(attempt, None)
        if known.expired:
            book.append("late", known.admission, [settlement.attempt])
            book.add(settlement, request=known.row is None)
            known.row = settlement.row
            if not known.open:
                book.bury(rid)
            return "LATE"
        known.ended[attempt] = settlement.attempt
        known.finished = known.finished or final
        known.row = settlement.row
        closing = known.finished and not known.open
        book.add(settlement, request=closing)
        if closing:
            self._close(book, rid, known, "done")
        return "DONE" if closing else "OPEN"

    def _end_orphan(
        self, book: _Org, org: str, rid: bytes, settlement: Settlement
    ) -> Literal["DUP", "ORPHAN"]:
        if rid in book.tombstones:
            return "DUP"
        book.append("orphan", orphan_admission(org, rid, settlement), [settlement.attempt])
        book.add(settlement, request=True)
        book.bury(rid)
        return "ORPHAN"

    def _close(self, book: _Org, rid: bytes, known: _Reservation, state: str) -> None:
        book.append(state if known.ended else "unsent", known.admission, _in_order(known.ended))
        book.bury(rid)

    async def finish(self, org: str, rid: bytes) -> tuple[FinishCode, list[bytes]]:
        """Say that no further attempt can come."""
        book = self._org(org)
        known = book.reservations.get(rid)
        if known is None:
            return "DUP", []
        blobs = _in_order(known.ended)
        if known.expired or known.finished:
            return "DUP", blobs
        if known.open:
            known.finished = True
            return "OPEN", blobs
        book.count(known.row)
        self._close(book, rid, known, "done")
        return "DONE", blobs

    async def renew(self, org: str, rids: list[bytes], lease_ms: int = LEASE_MS) -> None:
        """Extend the leases of requests that are still running."""
        book = self._org(org)
        for rid in rids:
            known = book.reservations.get(rid)
            if known is not None:
                known.lease_end = max(known.lease_end, self._clock() + lease_ms)

    async def expire(self, org: str, rid: bytes) -> ExpireCode:
        """Close one reservation whose lease is over."""
        book = self._org(org)
        known = book.reservations.get(rid)
        if known is None or known.expired:
            return "DUP"
        if known.lease_end > self._clock():
            return "LIVE"
        book.count(known.row)
        if known.open:
            book.append("expired", known.admission, _in_order(known.ended, known.open))
            known.expired = True
        else:
            self._close(book, rid, known, "closed")
        return "DONE"

    async def sweep(self, org: str, limit: int = 200) -> int:
        """Expire what is over, at most `limit`."""
        now, known = self._clock(), self._org(org).reservations
        due = [rid for rid, entry in known.items() if not entry.expired and entry.lease_end <= now]
        codes = [await self.expire(org, rid) for rid in due[:limit]]
        return codes.count("DONE")

    async def orgs(self) -> list[str]:
        """List the orgs that were ever named."""
        return sorted(self._orgs)

    async def records(self, org: str, count: int = 100) -> list[pb.UsageRecord]:
        """Return the last `count` records, newest last."""
        return self._org(org).log[-count:]

    async def rollups(self, org: str, day: str) -> list[dict[str, str | int]]:
        """Return the day's rollup rows."""
        rows: list[dict[str, str | int]] = []
        for row, sums in self._org(org).rollups.items():
            if row.day == day:
                fields = msgspec.structs.asdict(row) | msgspec.structs.asdict(sums)
                del fields["day"]
                rows.append(fields)
        return rows

    async def check(self) -> str | None:
        """Return the warning that goes with this store."""
        return "the ledger is in memory: usage is lost when the process ends"

    async def close(self) -> None:
        """Nothing to release."""
