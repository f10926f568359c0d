"""The ledger's five calls, as the stages and the performer see them; stores implement them.

Every call may be repeated blindly after a timeout: reserve is idempotent by request id, begin and end by
(request id, attempt), finish and expire by state. Amounts are integer nano-dollars and tokens.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

LEASE_MS = 120_000
"""How long a reservation lives without a sign of life (renewed while a stream runs)."""

ReserveCode = Literal["OK", "GONE"]
BeginCode = Literal["OK", "GONE"]
EndCode = Literal["DONE", "OPEN", "DUP", "LATE", "ORPHAN"]
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


class Ledger(Protocol):
    """One org's reservations, usage stream and rollups."""

    async def reserve(self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS) -> ReserveCode:
        """Open a reservation before anything is dispatched. `admission` is a serialized Admission."""
        ...

    async def begin(
        self, org: str, rid: bytes, attempt: int, need: bytes, lease_ms: int = LEASE_MS
    ) -> BeginCode:
        """Announce an attempt before its dispatch. `need`: serialized Attempt to record if its worker dies.

        GONE: the reservation is missing, closed or expired, or this attempt has ended: do not dispatch.
        """
        ...

    async def end(
        self, org: str, rid: bytes, attempt: int, settlement: Settlement, *, final: bool
    ) -> EndCode:
        """Settle an attempt, exactly once. `final`: no attempt follows (it delivered the answer)."""
        ...

    async def finish(self, org: str, rid: bytes) -> tuple[FinishCode, list[bytes]]:
        """Say that no further attempt can come; returns the serialized Attempts that ended so far."""
        ...

    async def renew(self, org: str, rids: list[bytes], lease_ms: int = LEASE_MS) -> None:
        """Extend the leases of requests that are still running; entries that are gone stay gone."""
        ...

    async def expire(self, org: str, rid: bytes) -> ExpireCode:
        """Close one reservation whose lease is over: its open attempts are recorded as EXPIRED."""
        ...

    async def sweep(self, org: str, limit: int = 200) -> int:
        """Expire every reservation of the org whose lease is over; returns how many were closed."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
