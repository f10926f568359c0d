"""What the memory twin keeps of one org, and how amounts move in it: base, close, gcra and rows.lua."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from extproc.ledger.base import RollupRow, Settlement
from extproc.money.amounts import (
    HORIZON_MS,
    SOFT_LIMITS,
    Ask,
    Budget,
    BudgetLeft,
    Crossing,
    LimitLeft,
    Option,
    RateLimit,
    Shortage,
    TrueUp,
    Unit,
)
from extproc.pb import usage_pb2 as pb


def made(rid: bytes) -> int:
    """Return when the id was made: UUIDv7 begins with 48 bits of milliseconds."""
    return int.from_bytes(rid[:6], "big")


class Held(msgspec.Struct):
    """One budget of a reservation."""

    window: str
    unit: Unit
    until: int

    @staticmethod
    def of(budget: Budget) -> Held:
        return Held(budget.window, budget.unit, budget.until_ms)


class Open(msgspec.Struct):
    """One attempt that nobody has ended."""

    blob: bytes
    need: int
    tokens: int
    row: RollupRow | None


class Reservation(msgspec.Struct):
    """One key `{org}:r:<rid>`."""

    admission: bytes
    lease_end: int
    budgets: list[Held] = []
    option: int = 0
    granted: int = 0
    hold: int = 0
    hold_tokens: int = 0
    paid: int = 0
    paid_tokens: int = 0
    unfunded: int = 0
    until: int = 0
    """When an expired one is forgotten."""
    expired: bool = False
    finished: bool = False
    begun: bool = False
    open: dict[int, Open] = {}
    ended: dict[int, bytes] = {}
    row: RollupRow | None = None


class Window(msgspec.Struct):
    """One key `{org}:b:<budget>:<window>`."""

    limit: int
    until: int
    spent: int = 0
    reserved: int = 0
    debt: int = 0

    @property
    def free(self) -> int:
        return self.limit - self.spent - self.reserved - self.debt


class Sums(msgspec.Struct):
    """The amounts of one rollup row."""

    requests: int = 0
    input: int = 0
    output: int = 0
    cost: int = 0
    unpriced: int = 0


class Limits:
    """Rate limits of one scope: the time (µs) at which each one's debt is paid."""

    def __init__(self) -> None:
        self._tats: dict[str, int] = {}

    @staticmethod
    def _rate(limit: RateLimit | TrueUp) -> float:
        return limit.period_ms * 1000 / limit.limit

    def test(self, limits: Sequence[RateLimit], us: int) -> tuple[int, str] | None:
        """Return the longest wait (ms) and its limit, or None when all fit."""
        longest, which = 0, None
        for limit in limits:
            over = self._after(limit, us) - us - math.ceil(limit.burst * self._rate(limit))
            if over > longest:
                longest, which = over, limit.id
        return None if which is None else (-(-longest // 1000), which)

    def _after(self, limit: RateLimit, us: int) -> int:
        return max(us, self._tats.get(limit.id, 0)) + math.ceil(min(limit.cost, limit.burst) * self._rate(limit))

    def advance(self, limits: Sequence[RateLimit], us: int) -> None:
        """Take what was tested."""
        self._tats.update([(limit.id, self._after(limit, us)) for limit in limits])

    def left(self, limits: Sequence[RateLimit], us: int) -> tuple[LimitLeft, ...]:
        """Return what is left of each."""
        return tuple(self._room(limit, us) for limit in limits)

    def _room(self, limit: RateLimit, us: int) -> LimitLeft:
        ahead = max(self._tats.get(limit.id, 0) - us, 0)
        return LimitLeft(max(math.floor(limit.burst - ahead / self._rate(limit)), 0), -(-ahead // 1000))

    def true_up(self, entries: Iterable[TrueUp], us: int) -> None:
        """Correct what was taken to what was used."""
        for entry in entries:
            used = entry.actual - min(entry.estimate, entry.burst)
            if used != 0:
                tat = max(us, self._tats.get(entry.id, 0)) + math.ceil(used * self._rate(entry))
                self._tats[entry.id] = max(tat, us)


class Book:
    """All keys of one org."""

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows
        self.reservations: dict[bytes, Reservation] = {}
        self.log: list[pb.UsageRecord] = []
        self.rollups: dict[RollupRow, Sums] = {}
        self.limits = Limits()
        self.epoch = 0
        self.table = b""
        self._windows: dict[str, Window] = {}
        self._tombstones: dict[bytes, int] = {}
        self.orphans: dict[bytes, frozenset[int]] = {}
        """The attempts of requests that had no reservation; the tombstone tells how long that counts."""
        self.closed: dict[bytes, tuple[int, ...]] = {}
        """The attempts of requests that a second or later attempt closed; likewise."""

    # ------------------------------------------------------------------------------------ requests

    def reservation(self, rid: bytes, now: int) -> Reservation | None:
        """Return an open reservation, or an expired one that may still be corrected."""
        found = self.reservations.get(rid)
        return found if found is not None and (not found.expired or found.until > now) else None

    def buried(self, rid: bytes, now: int) -> bool:
        """Whether the request has a tombstone."""
        return self._tombstones.get(rid, 0) > now

    def entomb(self, rid: bytes, now: int) -> None:
        """Remember that this id is done."""
        self._tombstones[rid] = max(now, made(rid)) + HORIZON_MS + 60_000

    def bury(self, rid: bytes, now: int) -> None:
        """Replace a reservation by its tombstone."""
        self.entomb(rid, now)
        self.reservations.pop(rid, None)

    def append(
        self,
        state: str,
        admission: bytes,
        blobs: Iterable[bytes],
        delta: int,
        tokens: int,
        unfunded: int = 0,
        budgets: Iterable[Held] = (),
        option: int = 0,
        granted: int = 0,
    ) -> None:
        """Add a record to the stream."""
        self.log.append(
            pb.UsageRecord(
                state=state,
                admission=pb.Admission.FromString(admission),
                attempts=[pb.Attempt.FromString(blob) for blob in blobs],
                delta_nano_usd=delta,
                delta_tokens=tokens,
                unfunded_nano_usd=unfunded,
                budgets=[held.window for held in budgets],
                option=option,
                max_tokens=granted,
            )
        )

    def conclude(self, known: Reservation, state: str, blobs: Iterable[bytes]) -> None:
        """Append the primary record of a reservation."""
        self.append(
            state, known.admission, blobs, known.paid, known.paid_tokens, known.unfunded,
            known.budgets, known.option, known.granted,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------ rollups

    def enter(self, row: RollupRow) -> RollupRow:
        """Return the row to add to: itself, or `other` where the day has too many."""
        if row not in self.rollups:
            if sum(known.day == row.day for known in self.rollups) >= self.most_rows:
                row = RollupRow(row.day, "other", "other", "other", "other", "other", "other")
            self.rollups.setdefault(row, Sums())
        return row

    def bump(self, settlement: Settlement, requests: int, cost: int) -> RollupRow:
        """Add a settlement to its row."""
        row = self.enter(settlement.row)
        sums = self.rollups[row]
        sums.requests += requests
        sums.input += settlement.input_tokens
        sums.output += settlement.output_tokens
        sums.unpriced += settlement.cost is None
        sums.cost += cost
        return row

    def count(self, row: RollupRow | None) -> None:
        """Count the request on the row of its last attempt."""
        if row is not None:
            self.rollups[row].requests += 1

    # ------------------------------------------------------------------------------------ budgets

    def window(self, name: str, now: int) -> Window | None:
        """Return a window that has not gone yet."""
        found = self._windows.get(name)
        return found if found is not None and found.until + 1000 > now else None

    def create(self, budget: Budget, now: int) -> Window:
        """Return the window of a budget, made at its first use."""
        found = self.window(budget.window, now)
        if found is None:
            found = self._windows[budget.window] = Window(budget.limit, budget.until_ms)
        return found

    def windows(self, now: int) -> list[tuple[str, Window]]:
        """Return the windows that still take corrections."""
        return sorted((name, window) for name, window in self._windows.items() if window.until > now)

    def free(self, budget: Budget, now: int) -> int:
        """Return what an ask finds free in a budget: by the limit of the ask."""
        found = self.window(budget.window, now)
        return budget.limit if found is None else budget.limit - found.spent - found.reserved - found.debt

    def reserved(self, budget: Budget, now: int) -> int:
        """Return what is reserved of a budget."""
        found = self.window(budget.window, now)
        return 0 if found is None else found.reserved

    def left(self, budgets: Iterable[Budget], now: int) -> tuple[BudgetLeft, ...]:
        """Return the state of each budget."""
        return tuple(BudgetLeft(self.free(b, now), self.reserved(b, now), b.limit) for b in budgets)

    def charge(self, name: str, taken: int, cost: int, now: int, crossed: list[Crossing]) -> int:
        """Release `taken` and charge `cost` to one window; returns the new debt."""
        window = self.window(name, now)
        if window is None:
            return 0
        before = window.spent
        window.reserved -= taken
        if cost < 0:
            back = min(window.debt, -cost)
            window.debt -= back
            window.spent += cost + back
            debt = 0
        else:
            window.spent += min(cost, taken)
            excess = max(cost - taken, 0)
            fit = max(min(window.limit - window.spent - window.reserved, excess), 0)
            window.spent += fit
            debt = excess - fit
            window.debt += debt
        for percent in SOFT_LIMITS:
            line = window.limit * percent / 100
            if before < line <= window.spent:
                crossed.append(Crossing(name, percent))
        return debt

    def charge_all(
        self,
        known: Reservation,
        usd: tuple[int, int],
        tokens: tuple[int, int],
        now: int,
        crossed: list[Crossing],
        *,
        closing: bool,
    ) -> int:
        """Charge every window of a reservation with (taken, cost); returns the new debt in nano-dollars."""
        unfunded = 0
        for held in known.budgets:
            if now >= held.until:
                continue
            match held.unit:
                case Unit.USD:
                    unfunded = max(unfunded, self.charge(held.window, *usd, now, crossed))
                case Unit.TOKENS:
                    self.charge(held.window, *tokens, now, crossed)
                case Unit.REQUESTS | Unit.CONCURRENT:
                    if closing:
                        spent = int(held.unit is Unit.REQUESTS and known.begun)
                        self.charge(held.window, 1, spent, now, crossed)
        known.unfunded += unfunded
        return unfunded


def price(option: Option, unit: Unit) -> tuple[int, int]:
    """Return the fixed part and the part per output token that an option costs a budget of this unit."""
    match unit:
        case Unit.USD:
            return option.fixed_nano_usd, option.token_nano_usd
        case Unit.TOKENS:
            return option.fixed_tokens, option.token_tokens
        case Unit.REQUESTS | Unit.CONCURRENT:
            return 1, 0


def fits(book: Book, ask: Ask, option: Option, now: int) -> tuple[int, Budget | None]:
    """Return how many tokens of the option fit (-1: none), and the tightest budget."""
    most, tightest = option.want, None
    for budget in ask.budgets:
        fixed, each = price(option, budget.unit)
        if fixed == 0 and each == 0:
            continue
        free = book.free(budget, now)
        fit = -1 if free < fixed else min((free - fixed) // each, option.want) if each else option.want
        longer = tightest is not None and fit == most and budget.end_ms > tightest.end_ms
        if fit < most or longer:
            most, tightest = fit, budget
    return most, tightest


def shortage(book: Book, ask: Ask, budget: Budget, now: int) -> Shortage:
    """Return what the cheapest option lacks in a budget."""
    fixed, each = price(ask.options[-1], budget.unit)
    needed = fixed + ask.options[-1].least * each
    return Shortage(needed, book.free(budget, now), book.reserved(budget, now), budget.limit)
