"""What goes into and comes out of the ledger's calls when money is involved.

Amounts are integers: nano-dollars, tokens, or pieces (requests, concurrent requests). Lua's numbers are doubles, so no
amount may exceed 2^53 - 1 (about nine million dollars); larger ones are refused here. Structs that cross to the scripts
are arrays on the wire: the order of their fields is part of the protocol.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import msgspec

LARGEST = 2**53 - 1
"""The largest amount, limit or price that is exact everywhere."""
HORIZON_MS = 172_800_000
"""How long a late or repeated call finds the trace of its request."""
SOFT_LIMITS = (75, 95)
"""Percent of a limit whose crossing is told."""

GrantCode = Literal["OK", "GONE", "EMPTY", "STALE", "LOG_FULL", "WINDOW", "LIMIT", "BUDGET"]
BegunCode = Literal["OK", "GONE", "BUDGET"]
EndedCode = Literal["DONE", "OPEN", "DUP", "LATE", "ORPHAN", "TOO_OLD"]
AdjustCode = Literal["DONE", "DUP", "TOO_OLD", "BELOW_ZERO"]
NoteCode = Literal["DONE", "DUP", "TOO_OLD", "LOG_FULL", "LIMIT"]
TakeCode = Literal["OK", "LIMIT"]
SeedCode = Literal["OK", "NOT_EMPTY", "CHANGED"]


def check_amount(name: str, amount: int) -> None:
    """Raise ValueError for an amount that is negative or not exact in a double."""
    if not 0 <= amount <= LARGEST:
        raise ValueError(f"{name} is {amount}: amounts are 0 to 2^53 - 1, beyond that sums are not exact")


class Unit(IntEnum):
    """What a budget counts."""

    USD = 1
    """Nano-dollars."""
    TOKENS = 2
    REQUESTS = 3
    """Spent when the request closes, if an attempt began."""
    CONCURRENT = 4
    """Held while the request runs, always given back."""


class Budget(msgspec.Struct, frozen=True, array_like=True):
    """One budget in the window of a request's admission. `id`: the short id of the budget table, not a name."""

    id: str
    unit: Unit
    limit: int
    start_ms: int
    end_ms: int
    keep_ms: int
    """How long after its end the window still takes corrections."""

    def __post_init__(self) -> None:
        if not self.id or not self.id.isascii() or any(sign in self.id for sign in "{}: "):
            raise ValueError(f"budget id {self.id!r}: ASCII without braces, colons and blanks")
        check_amount(f"the limit of budget {self.id}", self.limit)
        check_amount(f"the window of budget {self.id}", self.end_ms + self.keep_ms)

    @property
    def window(self) -> str:
        """Return the window's name in keys, records and audits."""
        return f"{self.id}:{self.start_ms}"

    @property
    def until_ms(self) -> int:
        """Return the last moment at which a correction reaches the window."""
        return self.end_ms + self.keep_ms


class RateLimit(msgspec.Struct, frozen=True, array_like=True):
    """One rate limit and what this request is expected to take of it (capped at `burst`)."""

    id: str
    period_ms: int
    limit: int
    burst: int
    cost: int

    def __post_init__(self) -> None:
        if min(self.period_ms, self.limit, self.burst) < 1 or self.cost < 0:
            raise ValueError(f"rate limit {self.id}: period, limit and burst are positive, the cost is not negative")


class TrueUp(msgspec.Struct, frozen=True, array_like=True):
    """What a request really took of a rate limit: `estimate` is the cost it was admitted with."""

    id: str
    period_ms: int
    limit: int
    burst: int
    estimate: int
    actual: int

    @staticmethod
    def of(limit: RateLimit, actual: int) -> TrueUp:
        """Correct what `limit` took at admission to `actual`."""
        return TrueUp(limit.id, limit.period_ms, limit.limit, limit.burst, limit.cost, actual)


class Option(msgspec.Struct, frozen=True, array_like=True):
    """One way to serve a request, as an upper bound: fixed part + per output token.

    `least` and `want` are output tokens: the option fits when at least `least` of them are funded.
    """

    least: int = 0
    want: int = 0
    fixed_nano_usd: int = 0
    token_nano_usd: int = 0
    fixed_tokens: int = 0
    token_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.want:
            raise ValueError("an option wants at least what it needs")
        check_amount("the need of an option (n$)", self.nano_usd(self.want))
        check_amount("the need of an option (tokens)", self.tokens(self.want))

    def nano_usd(self, output: int) -> int:
        """Return the bound of so many output tokens in nano-dollars."""
        return self.fixed_nano_usd + self.token_nano_usd * output

    def tokens(self, output: int) -> int:
        """Return the bound of so many output tokens in tokens."""
        return self.fixed_tokens + self.token_tokens * output


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """What a reservation asks for: all budgets and limits that apply, options dearest first."""

    epoch: int
    budgets: tuple[Budget, ...] = ()
    limits: tuple[RateLimit, ...] = ()
    options: tuple[Option, ...] = (Option(),)

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("an ask without options cannot be granted")


class Shortage(msgspec.Struct, frozen=True, array_like=True):
    """Why a budget refused: `needed` of the cheapest option against what the budget has, all in its unit."""

    needed: int
    free: int
    reserved: int
    limit: int

    @property
    def passing(self) -> bool:
        """Whether only reservations in flight stand in the way: waiting seconds may help."""
        return self.needed <= self.free + self.reserved

    @property
    def hopeless(self) -> bool:
        """Whether the request is larger than the limit itself."""
        return self.needed > self.limit


class BudgetLeft(msgspec.Struct, frozen=True, array_like=True):
    """State of one budget after the grant, in its unit. `free` is negative where a limit was lowered."""

    free: int
    reserved: int
    limit: int


class LimitLeft(msgspec.Struct, frozen=True, array_like=True):
    """State of one rate limit after the grant: room below the burst, and when all of it is back."""

    remaining: int
    reset_ms: int


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """Answer to a reserve with an ask. Nothing was written unless `code` is OK."""

    code: GrantCode
    time_ms: int
    """The server's clock: only it decides; a worker that got WINDOW computes its windows with it."""
    option: int = 0
    """1-based number of the granted option."""
    max_tokens: int = 0
    sweep: bool = False
    """Whether a lease of the org is over: then call `sweep`."""
    budgets: tuple[BudgetLeft, ...] = ()
    """In the order of the ask."""
    limits: tuple[LimitLeft, ...] = ()
    wait_ms: int = 0
    """LIMIT: when the same request would fit."""
    blocked: str = ""
    """LIMIT, BUDGET: id of the limit or budget in the way."""
    shortage: Shortage | None = None


class Need(msgspec.Struct, frozen=True):
    """Upper bound of one attempt."""

    nano_usd: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        check_amount("the need of an attempt (n$)", self.nano_usd)
        check_amount("the need of an attempt (tokens)", self.tokens)


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """Answer to a begin with a need. BUDGET: `blocked` has `free`, the top-up misses `short`; nothing was written."""

    code: BegunCode
    blocked: str = ""
    short: int = 0
    free: int = 0
    reserved: int = 0
    limit: int = 0


class Account(msgspec.Struct, frozen=True, array_like=True):
    """What an end brings along: the budgets of its ask (for an orphan) and corrections of its org's rate limits."""

    budgets: tuple[Budget, ...] = ()
    true_ups: tuple[TrueUp, ...] = ()


class Crossing(msgspec.Struct, frozen=True, array_like=True):
    """A soft limit that this call crossed; nobody else is told."""

    window: str
    percent: int

    @property
    def budget(self) -> str:
        """Return the budget's short id."""
        return self.window.rpartition(":")[0]


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """Answer to an end with an account."""

    code: EndedCode
    unfunded_nano_usd: int = 0
    """What no budget could fund: debt that blocks admission."""
    crossed: tuple[Crossing, ...] = ()


class Adjusted(msgspec.Struct, frozen=True, array_like=True):
    """Answer to an adjust."""

    code: AdjustCode
    unfunded_nano_usd: int = 0
    crossed: tuple[Crossing, ...] = ()


class Noted(msgspec.Struct, frozen=True, array_like=True):
    """Answer to a note. LIMIT: `blocked` admits it in `wait_ms`."""

    code: NoteCode
    wait_ms: int = 0
    blocked: str = ""


class Taken(msgspec.Struct, frozen=True, array_like=True):
    """Answer to a take. LIMIT: nothing was taken, `blocked` admits it in `wait_ms`."""

    code: TakeCode
    wait_ms: int = 0
    blocked: str = ""


class WindowState(msgspec.Struct, frozen=True, array_like=True):
    """One window of one budget."""

    window: str
    spent: int
    reserved: int
    debt: int
    limit: int
    """As last published or reserved under; the table is what holds."""

    @property
    def budget(self) -> str:
        """Return the budget's short id."""
        return self.window.rpartition(":")[0]


class Audit(msgspec.Struct, frozen=True, array_like=True):
    """All windows of an org at one moment."""

    time_ms: int
    epoch: int
    open: int
    """Reservations with a lease."""
    records: int
    """Entries in the stream."""
    windows: tuple[WindowState, ...]


class Published(msgspec.Struct, frozen=True):
    """Answer to a publish. STALE: the table in force has another epoch, this one."""

    code: Literal["OK", "STALE"]
    epoch: int
