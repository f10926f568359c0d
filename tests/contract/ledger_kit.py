"""Small builders for tests of the ledger: ids, blobs, budgets, asks; the calls of one request."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from extproc.ledger.base import RollupRow, Settlement
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import (
    Account,
    Ask,
    Begun,
    Budget,
    Ended,
    Grant,
    Need,
    Option,
    RateLimit,
    TrueUp,
    Unit,
    WindowState,
)
from extproc.pb import usage_pb2 as pb
from tests.contract.ledger_servers import binary

Store = MemoryTreasury | RedisTreasury
SERVERS: list[Any] = [
    "valkey",
    pytest.param("redis", marks=pytest.mark.skipif(binary("redis") is None, reason="no redis-server here")),
]
DAY = datetime.now(UTC).date().isoformat()
"""Today: what is older than a week is not in a report."""
ROW = RollupRow(DAY, "core", "search", "ann", "k1", "qwen3", "local")
OTHER_ROW = RollupRow(DAY, "core", "search", "ann", "k1", "gpt-5-mini", "openai")
OVER = 0
"""A lease that is over at once."""
HOUR = 3_600_000
STARTED = time.time_ns() // 1_000_000
_serial = itertools.count()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def make_rid(at_ms: int | None = None) -> bytes:
    at = now_ms() if at_ms is None else at_ms
    return at.to_bytes(6, "big") + b"\x70\x00\x80" + next(_serial).to_bytes(6, "big") + b"\x2a"


def admission(rid: bytes) -> bytes:
    # Long enough for a length of two bytes in the record that Lua builds.
    return pb.Admission(request_id=rid.hex(), team="core", route="r" * 300).SerializeToString()


def attempt(number: int, outcome: pb.Attempt.Outcome = pb.Attempt.EXACT) -> bytes:
    return pb.Attempt(number=number, backend="local", outcome=outcome, status=200).SerializeToString()


def need(number: int) -> bytes:
    return attempt(number, pb.Attempt.EXPIRED)


def used(number: int, cost: int | None = 7, row: RollupRow = ROW, tokens: int = 14) -> Settlement:
    return Settlement(attempt(number), cost, tokens - 3, 3, row)


def usd(name: str = "org", limit: int = 1000, **changes: Any) -> Budget:
    """A dollar budget whose window contains the test run."""
    return budget(name, Unit.USD, limit, **changes)


def budget(name: str, unit: Unit, limit: int, **changes: Any) -> Budget:
    fields = {"start_ms": STARTED - HOUR, "end_ms": STARTED + 10 * HOUR, "keep_ms": HOUR} | changes
    return Budget(name, unit, limit, **fields)


def costs(nano_usd: int, tokens: int = 0) -> Option:
    """An option without a part that depends on its output."""
    return Option(fixed_nano_usd=nano_usd, fixed_tokens=tokens)


def gcra(name: str = "rpm", limit: int = 60, burst: int = 10, cost: int = 1, period: int = HOUR) -> RateLimit:
    return RateLimit(name, period, limit, burst, cost)


class Desk:
    """One org of a store under a published table: the calls with money, in one line each."""

    def __init__(self, store: Store, org: str) -> None:
        self.store, self.org, self.epoch = store, org, 0

    async def publish(self, **limits: int) -> int:
        """Publish a table with these new limits."""
        published = await self.store.publish(self.org, b"table", self.epoch, limits)
        assert published.code == "OK"
        self.epoch = published.epoch
        return self.epoch

    async def reserve(self, rid: bytes, *options: Option, lease: int = 120_000, **parts: Any) -> Grant:
        ask = Ask(**({"epoch": self.epoch} | parts | ({"options": options} if options else {})))
        return await self.store.reserve(self.org, rid, admission(rid), lease, ask=ask)

    async def open(self, cost: int, *budgets: Budget, lease: int = 120_000) -> bytes:
        """Reserve `cost` (and as many tokens) and return the id."""
        rid = make_rid()
        grant = await self.reserve(rid, costs(cost, cost), budgets=budgets, lease=lease)
        assert grant.code == "OK", grant
        return rid

    async def begin(
        self, rid: bytes, number: int, cost: int, tokens: int = 0, *, lease: int = 120_000, row: RollupRow = ROW
    ) -> Begun:
        bound = Need(cost, tokens)
        return await self.store.begin(self.org, rid, number, need(number), lease, bound=bound, row=row)

    async def end(
        self,
        rid: bytes,
        number: int,
        cost: int | None,
        *budgets: Budget,
        final: bool = True,
        tokens: int = 3,
        true_ups: tuple[TrueUp, ...] = (),
        row: RollupRow = ROW,
    ) -> Ended:
        account = Account(budgets, true_ups)
        settlement = used(number, cost, row, tokens)
        return await self.store.end(self.org, rid, number, settlement, final=final, account=account)

    async def windows(self) -> dict[str, WindowState]:
        return {state.budget: state for state in (await self.store.audit(self.org)).windows}

    async def state(self, name: str = "org") -> tuple[int, int, int]:
        """Return (spent, reserved, debt) of a budget."""
        window = (await self.windows())[name]
        return window.spent, window.reserved, window.debt

    async def records(self) -> list[pb.UsageRecord]:
        return await self.store.records(self.org, 10_000)

    async def states(self) -> list[str]:
        return [record.state for record in await self.records()]

    async def row_cost(self) -> int:
        return sum(int(row["cost"]) for row in await self.store.rollups(self.org, DAY))

    async def row_requests(self) -> int:
        return sum(int(row["requests"]) for row in await self.store.rollups(self.org, DAY))

    async def check_rest(self, name: str = "org") -> None:
        """At rest: nothing reserved, nothing open, and the three sums are one."""
        audit = await self.store.audit(self.org)
        assert audit.open == 0
        assert [window.reserved for window in audit.windows] == [0] * len(audit.windows)
        charged = sum(window.spent + window.debt for window in audit.windows if window.budget == name)
        assert sum(record.delta_nano_usd for record in await self.records()) == charged
        assert await self.row_cost() == charged
        primary = [r.admission.request_id for r in await self.records() if r.state not in ("late", "adjust")]
        assert len(primary) == len(set(primary))
