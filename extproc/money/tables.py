"""The budget table as it is published, and the windows its budgets run in. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from extproc.money.amounts import LARGEST, Budget, Unit, check_amount

Per = Literal["minute", "hour", "day", "week", "month", "total"]
HOUR_MS = 3_600_000
LONGEST_KEEP_MS = 8 * 24 * HOUR_MS
END_OF_TIME_MS = LARGEST - LONGEST_KEEP_MS
"""End of the window of a `total` budget."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One budget of the table. `zone`: IANA name of the time zone in which days, weeks and months begin."""

    id: str
    unit: Unit
    limit: int
    per: Per
    zone: str = "UTC"

    def __post_init__(self) -> None:
        check_amount(f"the limit of budget {self.id}", self.limit)

    def at(self, now_ms: int) -> Budget:
        """Return the budget in the window of that moment."""
        start, end = window(self.per, self.zone, now_ms)
        return Budget(self.id, self.unit, self.limit, start, end, keep(start, end))


class Table(msgspec.Struct, frozen=True, array_like=True):
    """All budgets of an org. `generation` grows with the configuration it was made from."""

    generation: int
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.entries]
        if len(ids) != len(set(ids)):
            raise ValueError("two budgets of a table have the same id")


def encode(table: Table) -> bytes:
    """Return the table as it is published."""
    return msgspec.msgpack.encode(table)


def decode(blob: bytes) -> Table:
    """Read a published table. Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(blob, type=Table)


def changed(old: Table | None, new: Table) -> dict[str, int]:
    """Return the limits that are new or differ, by budget id: what `publish` writes into existing windows."""
    before = {entry.id: entry.limit for entry in old.entries} if old else {}
    return {entry.id: entry.limit for entry in new.entries if before.get(entry.id) != entry.limit}


def supersedes(own: Table, stored: Table | None) -> bool:
    """Whether a worker may publish its own table: else old and new ones overwrite each other during a rollout."""
    return stored is None or own.generation > stored.generation


def keep(start_ms: int, end_ms: int) -> int:
    """Return how long after its end a window takes corrections."""
    return max(HOUR_MS, min(end_ms - start_ms, LONGEST_KEEP_MS))


def window(per: Per, zone: str, now_ms: int) -> tuple[int, int]:
    """Return start and end (ms) of the window that contains the moment; days follow the zone's clock changes."""
    if per == "total":
        return 0, END_OF_TIME_MS
    if per in ("minute", "hour"):
        length = HOUR_MS if per == "hour" else 60_000
        start = now_ms - now_ms % length
        return start, start + length
    local = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
    first = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0, tzinfo=None)
    if per == "week":
        first -= timedelta(days=first.weekday())
    if per == "month":
        first = first.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    else:
        after = first + timedelta(days=7 if per == "week" else 1)
    return _ms(first, zone), _ms(after, zone)


def _ms(naive: datetime, zone: str) -> int:
    return round(naive.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).timestamp() * 1000)
