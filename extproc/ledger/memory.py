"""The ledger in memory: the scripts' twin for tests and for trying things out. Gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import overload

import msgspec

from extproc.ledger.base import (
    LEASE_MS,
    BeginCode,
    EndCode,
    ExpireCode,
    FinishCode,
    Ledger,
    Mark,
    ReserveCode,
    RollupRow,
    Settlement,
)
from extproc.ledger.memory_books import Book, Held, Open, Reservation, Window, fits, made, shortage
from extproc.ledger.redis_ledger import LONGEST_LOG, MOST_ROWS, orphan_admission
from extproc.money.amounts import (
    HORIZON_MS,
    Account,
    Ask,
    Begun,
    Budget,
    Crossing,
    Ended,
    Grant,
    GrantCode,
    Need,
    Unit,
)
from extproc.pb import usage_pb2 as pb


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _in_order(*attempts: dict[int, bytes]) -> list[bytes]:
    merged = {number: blob for part in attempts for number, blob in part.items()}
    return [merged[number] for number in sorted(merged)]


def _taken(hold: int, cost: int, others: int, *, finished: bool, closing: bool) -> int:
    if closing:
        return hold
    return hold - min(others if finished else max(hold - cost, others), hold)


class MemoryLedger(Ledger):
    """Same codes, records, rollups and amounts as RedisLedger; `clock` gives milliseconds."""

    def __init__(
        self,
        clock: Callable[[], int] = wall_clock_ms,
        *,
        longest_log: int = LONGEST_LOG,
        most_rows: int = MOST_ROWS,
        on_crossed: Callable[[str, tuple[Crossing, ...]], None] | None = None,
    ) -> None:
        self.clock = clock
        self.longest_log, self._most_rows = longest_log, most_rows
        self._on_crossed = on_crossed
        self.on_recorded: Callable[[str, Mark], None] | None = None  # a store in memory cannot go back
        self._orgs: dict[str, Book] = {}

    def book(self, org: str) -> Book:
        """Return what is kept of an org."""
        book = self._orgs.get(org)
        if book is None:
            book = self._orgs[org] = Book(self._most_rows)
        return book

    # ------------------------------------------------------------------------------------ reserve

    @overload
    async def reserve(self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS) -> ReserveCode: ...

    @overload
    async def reserve(
        self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS, *, ask: Ask
    ) -> Grant: ...

    async def reserve(
        self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS, *, ask: Ask | None = None
    ) -> ReserveCode | Grant:
        """Open a reservation."""
        book, now = self.book(org), self.clock()
        if ask is not None:
            return self._grant(book, rid, Reservation(admission, now + lease_ms), ask, now)
        code = self._known(book, rid, now)
        if code is None:
            book.reservations[rid] = Reservation(admission, now + lease_ms)
        return code or "OK"

    def _known(self, book: Book, rid: bytes, now: int) -> ReserveCode | None:
        known = book.reservation(rid, now)
        if known is not None:
            return "GONE" if known.expired or known.finished else "OK"
        return "GONE" if book.buried(rid, now) or made(rid) + HORIZON_MS < now else None

    def _verdict(self, book: Book, rid: bytes, ask: Ask, now: int) -> GrantCode | None:
        if book.epoch == 0:
            return "EMPTY"
        if (code := self._known(book, rid, now)) is not None:
            return code
        if book.epoch != ask.epoch:
            return "STALE"
        if len(book.log) >= self.longest_log:
            return "LOG_FULL"
        if any(not budget.start_ms <= now < budget.end_ms for budget in ask.budgets):
            return "WINDOW"
        return None

    def _grant(self, book: Book, rid: bytes, made_now: Reservation, ask: Ask, now: int) -> Grant:
        code, us = self._verdict(book, rid, ask, now), now * 1000
        sweep = any(not entry.expired and entry.lease_end <= now for entry in book.reservations.values())
        if code is not None and code != "OK":
            return Grant(code, now, sweep=sweep)
        if code is None:
            if (blocked := book.limits.test(ask.limits, us)) is not None:
                return Grant("LIMIT", now, sweep=sweep, wait_ms=blocked[0], blocked=blocked[1])
            chosen, granted, tightest = self._choose(book, ask, now)
            if chosen is None:
                assert tightest is not None
                lack = shortage(book, ask, tightest, now)
                return Grant("BUDGET", now, sweep=sweep, blocked=tightest.id, shortage=lack)
            self._hold(book, made_now, ask, chosen, granted, now)
            book.limits.advance(ask.limits, us)
            book.reservations[rid] = made_now
        known = book.reservations[rid]
        return Grant(
            "OK", now, known.option, known.granted, sweep,
            book.left(ask.budgets, now), book.limits.left(ask.limits, us),
        )  # fmt: skip

    def _choose(self, book: Book, ask: Ask, now: int) -> tuple[int | None, int, Budget | None]:
        tightest: Budget | None = None
        for number, option in enumerate(ask.options):
            granted, tightest = fits(book, ask, option, now)
            if granted >= option.least:
                return number, granted, None
        return None, 0, tightest

    def _hold(self, book: Book, known: Reservation, ask: Ask, chosen: int, granted: int, now: int) -> None:
        option = ask.options[chosen]
        known.option, known.granted = chosen + 1, granted
        known.hold, known.hold_tokens = option.nano_usd(granted), option.tokens(granted)
        known.budgets = [Held.of(budget) for budget in ask.budgets]
        amounts = {Unit.USD: known.hold, Unit.TOKENS: known.hold_tokens}
        for budget in ask.budgets:
            window = book.create(budget, now)
            window.limit = budget.limit
            window.reserved += amounts.get(budget.unit, 1)

    # ------------------------------------------------------------------------------------ begin

    @overload
    async def begin(
        self, org: str, rid: bytes, attempt: int, need: bytes, lease_ms: int = LEASE_MS
    ) -> BeginCode: ...

    @overload
    async def begin(
        self,
        org: str,
        rid: bytes,
        attempt: int,
        need: bytes,
        lease_ms: int = LEASE_MS,
        *,
        bound: Need,
        row: RollupRow,
    ) -> Begun: ...

    async def begin(
        self,
        org: str,
        rid: bytes,
        attempt: int,
        need: bytes,
        lease_ms: int = LEASE_MS,
        *,
        bound: Need | None = None,
        row: RollupRow | None = None,
    ) -> BeginCode | Begun:
        """Announce an attempt."""
        book, now, money = self.book(org), self.clock(), bound is not None and row is not None
        known = book.reservation(rid, now)
        if known is None or known.expired or known.finished or attempt in known.ended:
            return Begun("GONE") if money else "GONE"
        if attempt not in known.open:
            if bound is not None and row is not None:
                if (refused := self._top_up(book, known, bound, now)) is not None:
                    return refused
                known.row = book.enter(row)
                known.open[attempt] = Open(need, bound.nano_usd, bound.tokens, known.row)
            else:
                known.open[attempt] = Open(need, 0, 0, None)
            known.begun = True
            known.lease_end = now + lease_ms
        return Begun("OK") if money else "OK"

    def _top_up(self, book: Book, known: Reservation, bound: Need, now: int) -> Begun | None:
        short = {
            Unit.USD: max(sum(entry.need for entry in known.open.values()) + bound.nano_usd - known.hold, 0),
            Unit.TOKENS: max(
                sum(entry.tokens for entry in known.open.values()) + bound.tokens - known.hold_tokens, 0
            ),
        }
        touched: list[tuple[Held, Window, int]] = []
        for held in known.budgets:
            window, more = book.window(held.window, now), short.get(held.unit, 0)
            if more > 0 and now < held.until and window is not None:
                touched.append((held, window, more))
        lacking = [entry for entry in touched if entry[2] > entry[1].free]
        if lacking:
            held, window, more = min(lacking, key=lambda entry: entry[1].free - entry[2])
            name = held.window.rpartition(":")[0]
            return Begun("BUDGET", name, more, window.free, window.reserved, window.limit)
        for _, window, more in touched:
            window.reserved += more
        known.hold += short[Unit.USD]
        known.hold_tokens += short[Unit.TOKENS]
        return None

    # ------------------------------------------------------------------------------------ end

    @overload
    async def end(
        self, org: str, rid: bytes, attempt: int, settlement: Settlement, *, final: bool
    ) -> EndCode: ...

    @overload
    async def end(
        self, org: str, rid: bytes, attempt: int, settlement: Settlement, *, final: bool, account: Account
    ) -> Ended: ...

    async def end(
        self,
        org: str,
        rid: bytes,
        attempt: int,
        settlement: Settlement,
        *,
        final: bool,
        account: Account | None = None,
    ) -> EndCode | Ended:
        """Settle an attempt."""
        book, now = self.book(org), self.clock()
        known = book.reservation(rid, now)
        if known is None:
            ended = self._orphan(book, org, rid, attempt, settlement, account or Account(), now)
        elif attempt in known.ended or (known.expired and attempt not in known.open):
            ended = Ended("DUP")
        elif known.expired:
            ended = self._late(book, rid, known, attempt, settlement, now)
        else:
            ended = self._settle(book, rid, known, attempt, settlement, now, final=final)
            book.limits.true_up(account.true_ups if account else (), now * 1000)
        return ended if account is not None else ended.code

    def _orphan(
        self, book: Book, org: str, rid: bytes, attempt: int, settlement: Settlement, account: Account, now: int
    ) -> Ended:
        others = book.orphans.get(rid, frozenset())
        if book.buried(rid, now) and (not others or attempt in others):
            return Ended("DUP")
        if made(rid) + HORIZON_MS < now:
            return Ended("TOO_OLD")
        cost, used = settlement.cost or 0, settlement.input_tokens + settlement.output_tokens
        amounts, crossed, unfunded = {Unit.USD: cost, Unit.TOKENS: used, Unit.REQUESTS: int(not others)}, [], 0
        for budget in account.budgets:
            if now < budget.until_ms and budget.unit is not Unit.CONCURRENT:
                book.create(budget, now)
                debt = book.charge(budget.window, 0, amounts[budget.unit], now, crossed)
                unfunded = max(unfunded, debt if budget.unit is Unit.USD else 0)
        held = [Held.of(budget) for budget in account.budgets]
        admission = orphan_admission(org, rid, settlement)
        book.append("late" if others else "orphan", admission, [settlement.attempt], cost, used, unfunded, held)
        book.bump(settlement, int(not others), cost)
        book.bury(rid, now)
        book.orphans[rid] = others | {attempt}
        return Ended("LATE" if others else "ORPHAN", unfunded, tuple(crossed))

    def _late(
        self, book: Book, rid: bytes, known: Reservation, attempt: int, settlement: Settlement, now: int
    ) -> Ended:
        entry, crossed = known.open.pop(attempt), list[Crossing]()
        delta = 0 if settlement.cost is None else settlement.cost - entry.need
        tokens = settlement.input_tokens + settlement.output_tokens - entry.tokens
        unfunded = book.charge_all(known, (0, delta), (0, tokens), now, crossed, closing=False)
        book.append(
            "late", known.admission, [settlement.attempt], delta, tokens, unfunded,
            known.budgets, known.option, known.granted,
        )  # fmt: skip
        known.row = book.bump(settlement, int(known.row is None), delta)
        if not known.open:
            book.bury(rid, now)
        return Ended("LATE", unfunded, tuple(crossed))

    def _settle(
        self,
        book: Book,
        rid: bytes,
        known: Reservation,
        attempt: int,
        settlement: Settlement,
        now: int,
        *,
        final: bool,
    ) -> Ended:
        known.open.pop(attempt, None)
        known.finished = known.finished or final
        closing = known.finished and not known.open
        cost, used = settlement.cost or 0, settlement.input_tokens + settlement.output_tokens
        others = sum(entry.need for entry in known.open.values())
        other_tokens = sum(entry.tokens for entry in known.open.values())
        taken = _taken(known.hold, cost, others, finished=known.finished, closing=closing)
        taken_tokens = _taken(known.hold_tokens, used, other_tokens, finished=known.finished, closing=closing)
        known.hold -= taken
        known.hold_tokens -= taken_tokens
        known.paid += cost
        known.paid_tokens += used
        known.begun = True
        known.ended[attempt] = settlement.attempt
        crossed: list[Crossing] = []
        unfunded = book.charge_all(known, (taken, cost), (taken_tokens, used), now, crossed, closing=closing)
        known.row = book.bump(settlement, int(closing), cost)
        if closing:
            book.conclude(known, "done", _in_order(known.ended))
            book.bury(rid, now)
            if attempt > 1:
                book.closed[rid] = tuple(known.ended)
        return Ended("DONE" if closing else "OPEN", unfunded, tuple(crossed))

    # ------------------------------------------------------------------------------------ closing

    async def finish(self, org: str, rid: bytes) -> tuple[FinishCode, list[bytes]]:
        """Say that no further attempt can come."""
        book, now = self.book(org), self.clock()
        known = book.reservation(rid, now)
        if known is None:
            told = book.closed.get(rid, ()) if book.buried(rid, now) else ()
            return "DUP", [bytes((8, min(number, 127))) for number in told]
        blobs = _in_order(known.ended)
        if known.expired or known.finished:
            return "DUP", blobs
        if known.open:
            known.finished = True
            return "OPEN", blobs
        self._release(book, org, known, 0, 0)
        book.conclude(known, "done" if blobs else "unsent", blobs)
        book.count(known.row)
        book.bury(rid, now)
        return "DONE", blobs

    def _release(self, book: Book, org: str, known: Reservation, cost: int, tokens: int) -> None:
        """Charge what is left to charge and give the rest of the hold back."""
        crossed: list[Crossing] = []
        usd = (known.hold, cost)
        book.charge_all(known, usd, (known.hold_tokens, tokens), self.clock(), crossed, closing=True)
        known.hold = known.hold_tokens = 0
        known.paid += cost
        known.paid_tokens += tokens
        if crossed and self._on_crossed is not None:
            self._on_crossed(org, tuple(crossed))

    async def renew(self, org: str, rids: list[bytes], lease_ms: int = LEASE_MS) -> None:
        """Extend the leases of requests that are still running."""
        book = self.book(org)
        for rid in rids:
            known = book.reservations.get(rid)
            if known is not None:
                known.lease_end = max(known.lease_end, self.clock() + lease_ms)

    async def expire(self, org: str, rid: bytes) -> ExpireCode:
        """Close one reservation whose lease is over."""
        book, now = self.book(org), self.clock()
        known = book.reservation(rid, now)
        if known is None or known.expired:
            return "DUP"
        if known.lease_end > now:
            return "LIVE"
        entries = known.open.values()
        self._release(
            book, org, known, sum(entry.need for entry in entries), sum(entry.tokens for entry in entries)
        )
        blobs = _in_order(known.ended, {number: entry.blob for number, entry in known.open.items()})
        book.conclude(known, "expired" if known.open else "closed" if known.ended else "unsent", blobs)
        for entry in entries:
            if entry.row is not None:
                book.rollups[entry.row].cost += entry.need
        book.count(known.row)
        known.expired = bool(known.open)
        known.until = max(now, made(rid)) + HORIZON_MS
        if not known.open:
            book.bury(rid, now)
        return "DONE"

    async def sweep(self, org: str, limit: int = 200) -> int:
        """Expire what is over, at most `limit`."""
        now, known = self.clock(), self.book(org).reservations
        due = [rid for rid, entry in known.items() if not entry.expired and entry.lease_end <= now]
        codes = [await self.expire(org, rid) for rid in due[:limit]]
        return codes.count("DONE")

    # ------------------------------------------------------------------------------------ reading

    async def orgs(self) -> list[str]:
        """List the orgs that were ever named."""
        return sorted(self._orgs)

    async def records(self, org: str, count: int = 100) -> list[pb.UsageRecord]:
        """Return the last `count` records, newest last."""
        return self.book(org).log[-count:]

    async def rollups(self, org: str, day: str) -> list[dict[str, str | int]]:
        """Return the day's rollup rows."""
        rows: list[dict[str, str | int]] = []
        for row, sums in self.book(org).rollups.items():
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
