"""The rest of the ledger in memory: the twin of `redis_treasury`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from extproc.ledger.base import MARK_MS, Mark, RollupRow, Treasury
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.memory_books import Held, Limits, Window, made
from extproc.money.amounts import (
    HORIZON_MS,
    Adjusted,
    Audit,
    Budget,
    Crossing,
    Noted,
    Published,
    RateLimit,
    SeedCode,
    Taken,
    TrueUp,
    Unit,
    WindowState,
)


def _limit_of(budget: str, changed: dict[str, int]) -> int | None:
    """The new limit of a window's budget; one for each one (`team: "*"`) has an id that begins with its entry's."""
    entry = budget.rpartition(".")[0] if budget.split(".")[1:2] == ["all"] else budget
    return changed.get(budget, changed.get(entry))


class MemoryTreasury(MemoryLedger, Treasury):
    """MemoryLedger with what operators, the exporter and shared limits need."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._scopes: defaultdict[str, Limits] = defaultdict(Limits)
        self._marks: dict[tuple[str, bytes], tuple[str, int]] = {}

    async def publish(self, org: str, table: bytes, expected: int, changed: dict[str, int]) -> Published:
        """Put a budget table in force."""
        book, now = self.book(org), self.clock()
        if book.epoch != expected:
            return Published("STALE", book.epoch)
        for name, window in book.windows(now):
            limit = _limit_of(name.rpartition(":")[0], changed)
            window.limit = window.limit if limit is None else limit
        book.epoch = now if book.epoch == 0 else book.epoch + 1
        book.table = table
        return Published("OK", book.epoch)

    async def seed(self, org: str, windows: tuple[tuple[Budget, int], ...], records: int) -> SeedCode:
        """Set what windows have spent in a store that lost its data."""
        book, now = self.book(org), self.clock()
        if book.epoch != 0:
            return "NOT_EMPTY"
        if len(book.log) != records:
            return "CHANGED"
        for budget, spent in windows:
            if now < budget.until_ms:
                window = book.create(budget, now)
                window.limit, window.spent = budget.limit, min(spent, budget.limit)
                window.debt = spent - window.spent
        return "OK"

    async def table(self, org: str) -> tuple[int, bytes]:
        """Return the epoch in force and its table."""
        book = self.book(org)
        return book.epoch, book.table

    async def adjust(
        self,
        org: str,
        adjust_id: bytes,
        admission: bytes,
        row: RollupRow,
        budgets: tuple[Budget, ...],
        nano_usd: int,
        tokens: int = 0,
    ) -> Adjusted:
        """Correct budgets by hand."""
        book, now = self.book(org), self.clock()
        if book.buried(adjust_id, now):
            return Adjusted("DUP")
        if made(adjust_id) + HORIZON_MS < now:
            return Adjusted("TOO_OLD")
        amounts = {Unit.USD: nano_usd, Unit.TOKENS: tokens}
        live = [b for b in budgets if amounts.get(b.unit, 0) != 0 and now < b.until_ms]
        for budget in live:
            window = book.window(budget.window, now) or Window(0, 0)
            if window.spent + window.debt + amounts[budget.unit] < 0:
                return Adjusted("BELOW_ZERO")
        crossed, unfunded = list[Crossing](), 0
        for budget in live:
            book.create(budget, now)
            debt = book.charge(budget.window, 0, amounts[budget.unit], now, crossed)
            unfunded = max(unfunded, debt if budget.unit is Unit.USD else 0)
        held = [Held.of(budget) for budget in budgets]
        book.append("adjust", admission, [], nano_usd, tokens, unfunded, held)
        book.rollups[book.enter(row)].cost += nano_usd
        book.entomb(adjust_id, now)
        return Adjusted("DONE", unfunded, tuple(crossed))

    async def note(
        self, org: str, rid: bytes, admission: bytes, row: RollupRow, limits: tuple[RateLimit, ...] = ()
    ) -> Noted:
        """Record a request that was answered without an attempt."""
        book, now = self.book(org), self.clock()
        if book.buried(rid, now):
            return Noted("DUP")
        if made(rid) + HORIZON_MS < now:
            return Noted("TOO_OLD")
        if len(book.log) >= self.longest_log:
            return Noted("LOG_FULL")
        if (blocked := book.limits.test(limits, now * 1000)) is not None:
            return Noted("LIMIT", *blocked)
        book.limits.advance(limits, now * 1000)
        book.append("cached", admission, [], 0, 0)
        book.rollups[book.enter(row)].requests += 1
        book.entomb(rid, now)
        return Noted("DONE")

    async def is_open(self, org: str, rid: bytes, attempt: int) -> bool:
        """Whether a reservation has this attempt as open, or as charged in full and still to be corrected."""
        known = self.book(org).reservation(rid, self.clock())
        return known is not None and attempt in known.open

    async def standing(self, org: str, seen: Mark) -> tuple[Mark, bool]:
        """Return how far the org's stream is, and whether it has lost a record that was seen there."""
        length = len(self.book(org).log)
        return Mark(0, length, length), length < seen.added

    @property
    def connections(self) -> int:
        """There is one store for as long as the process lives."""
        return 1

    async def audit(self, org: str) -> Audit:
        """Return all windows of the org at one moment."""
        book, now = self.book(org), self.clock()
        windows = tuple(
            WindowState(name, window.spent, window.reserved, window.debt, window.limit)
            for name, window in book.windows(now)
        )
        leases = sum(not entry.expired for entry in book.reservations.values())
        return Audit(now, book.epoch, leases, len(book.log), windows)

    async def take(self, scope: str, rid: bytes, limits: tuple[RateLimit, ...]) -> Taken:
        """Take rate limits shared by all orgs."""
        shared, us = self._scopes[scope], self.clock() * 1000
        if not limits or self._marked(scope, rid):
            return Taken("OK")
        if (blocked := shared.test(limits, us)) is not None:
            return Taken("LIMIT", *blocked)
        shared.advance(limits, us)
        self._mark(scope, rid, "taken")
        return Taken("OK")

    async def give_back(self, scope: str, rid: bytes, true_ups: tuple[TrueUp, ...]) -> None:
        """Correct what was taken of shared limits."""
        if true_ups and self._marked(scope, rid) != "corrected":
            self._scopes[scope].true_up(true_ups, self.clock() * 1000)
            self._mark(scope, rid, "corrected")

    def _marked(self, scope: str, rid: bytes) -> str:
        mark, until = self._marks.get((scope, rid), ("", 0))
        return mark if self.clock() < until else ""

    def _mark(self, scope: str, rid: bytes, mark: str) -> None:
        now = self.clock()
        self._marks.pop((scope, rid), None)
        while self._marks and next(iter(self._marks.values()))[1] <= now:  # the oldest are first
            del self._marks[next(iter(self._marks))]
        self._marks[scope, rid] = mark, now + MARK_MS
