"""The ledger's five calls, as the stages and the performer see them; stores implement them.

Every call may be repeated blindly after a timeout: reserve is idempotent by request id, begin and end by
(request id, attempt), finish and expire by state. Amounts are integer nano-dollars and tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, overload

import msgspec

from extproc.money.amounts import (
    Account,
    Adjusted,
    Ask,
    Audit,
    Begun,
    Budget,
    Ended,
    Grant,
    Need,
    Noted,
    Published,
    RateLimit,
    SeedCode,
    Taken,
    TrueUp,
)

LEASE_MS = 120_000
"""How long a reservation lives without a sign of life (renewed while a stream runs)."""

MARK_MS = 60_000
"""How long a request is remembered that took of, or corrected, limits shared by all orgs: a repeated call comes sooner,
also one that lay in the socket of a frozen server. A mark takes some 150 bytes of the store."""

ReserveCode = Literal["OK", "GONE"]
BeginCode = Literal["OK", "GONE"]
EndCode = Literal["DONE", "OPEN", "DUP", "LATE", "ORPHAN", "TOO_OLD"]
FinishCode = Literal["DONE", "OPEN", "DUP"]
ExpireCode = Literal["LIVE", "DONE", "DUP"]


class LedgerUnavailable(Exception):  # noqa: N818 - a state of the store
    """The store did not answer in time or refused the connection. The call may be repeated."""


class LedgerMisconfigured(Exception):  # noqa: N818
    """The store works, but not in a way that keeps the ledger's promises. Do not run on it."""


class RollupRow(msgspec.Struct, frozen=True):
    """Dimensions of the daily rollup that a closed attempt adds to."""

    day: str
    team: str
    project: str
    user: str
    key: str
    model: str
    backend: str


class Settlement(msgspec.Struct, frozen=True):
    """What one attempt used. `cost` None: the price is unknown (counted as such, never as zero)."""

    attempt: bytes                 # serialized extproc.usage.Attempt
    cost: int | None
    input_tokens: int
    output_tokens: int
    row: RollupRow
    request_id: str = ""           # told in the record of an `end` without a reservation; default: the rid itself


class Mark(msgspec.Struct, frozen=True, order=True, array_like=True):
    """The last record of a stream: its id, and how many records the stream ever had then. 0, 0, 0: there is none."""

    ms: int = 0
    number: int = 0
    added: int = 0


class Ledger(Protocol):
    """One org's reservations, usage stream and rollups.

    Without an ask, a need and an account the calls only record; a struct comes back where money went in.
    """

    @overload
    async def reserve(self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS) -> ReserveCode: ...

    @overload
    async def reserve(
        self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS, *, ask: Ask
    ) -> Grant: ...

    async def reserve(
        self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS, *, ask: Ask | None = None
    ) -> ReserveCode | Grant:
        """Open a reservation before anything is dispatched. `admission` is a serialized Admission."""
        ...

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
        """Announce an attempt before its dispatch. `need`: serialized Attempt to record if its worker dies.

        `bound` is what is charged then, on `row`; what the hold does not cover is topped up, all or nothing.
        GONE: the reservation is missing, closed or expired, or this attempt has ended: do not dispatch.
        """
        ...

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
        """Settle an attempt, exactly once. `final`: no attempt follows (it delivered the answer).

        The reservation's budgets are charged in any case; the account saves a round trip, names the budgets of an
        orphan, and corrects rate limits.
        """
        ...

    async def finish(self, org: str, rid: bytes) -> tuple[FinishCode, list[bytes]]:
        """Say that no further attempt can come; returns the serialized Attempts that ended so far.

        Of a request that its second or a later attempt has closed already (DUP) they hold their number alone.
        """
        ...

    async def renew(self, org: str, rids: list[bytes], lease_ms: int = LEASE_MS) -> None:
        """Extend the leases of requests that are still running; entries that are gone stay gone."""
        ...

    async def expire(self, org: str, rid: bytes) -> ExpireCode:
        """Close one reservation whose lease is over: its open attempts are charged in full, as EXPIRED."""
        ...

    async def sweep(self, org: str, limit: int = 200) -> int:
        """Expire every reservation of the org whose lease is over; returns how many were closed."""
        ...

    async def orgs(self) -> list[str]:
        """The orgs that ever reserved, for sweepers and exporters."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class Treasury(Ledger, Protocol):
    """The ledger with what operators, the exporter and shared limits need."""

    async def publish(self, org: str, table: bytes, expected: int, changed: dict[str, int]) -> Published:
        """Put a budget table in force if the one in force has the epoch `expected` (0: there is none).

        `changed`: new limit by id of the table's entry, written into the windows that exist, those of a budget for each
        one included. From the return on no reservation under the old table is granted.
        """
        ...

    async def seed(self, org: str, windows: tuple[tuple[Budget, int], ...], records: int) -> SeedCode:
        """Set what windows have spent in a store that lost its data, before a table is published there.

        NOT_EMPTY: a table is in force. CHANGED: the stream has not as many records as the sums were made from.
        """
        ...

    async def table(self, org: str) -> tuple[int, bytes]:
        """Return the epoch in force and its table; (0, b"") when the store has none."""
        ...

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
        """Correct budgets by hand, once per id (16 bytes like a rid). A window may not fall below zero."""
        ...

    async def note(
        self, org: str, rid: bytes, admission: bytes, row: RollupRow, limits: tuple[RateLimit, ...] = ()
    ) -> Noted:
        """Record a request that was answered without an attempt (a cache hit): rate limits count it, money not."""
        ...

    async def is_open(self, org: str, rid: bytes, attempt: int) -> bool:
        """Whether a reservation has this attempt as open, or as charged in full and still to be corrected."""
        ...

    async def standing(self, org: str, seen: Mark) -> tuple[Mark, bool]:
        """Return how far the org's stream is, and whether it has lost a record that was seen there: then the store went
        back to older data."""
        ...

    on_recorded: Callable[[str, Mark], None] | None
    """Told the org and the id (without a number of records) of each record that a call of this process appended."""

    @property
    def connections(self) -> int:
        """How often the store was connected to: behind a new connection it may be another one than before."""
        ...

    async def audit(self, org: str) -> Audit:
        """Return all windows of the org at one moment."""
        ...

    async def take(self, scope: str, rid: bytes, limits: tuple[RateLimit, ...]) -> Taken:
        """Take rate limits shared by all orgs (of one backend or model), all or nothing.

        Idempotent by request for MARK_MS.
        """
        ...

    async def give_back(self, scope: str, rid: bytes, true_ups: tuple[TrueUp, ...]) -> None:
        """Correct what a request took of shared limits to what was used; 0 where nothing was sent. Once, likewise."""
        ...
