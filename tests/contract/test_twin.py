"""The memory twin against a server: any sequence of calls with money gives the same answers, records and sums."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.ledger.base import RollupRow
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import Account, Grant, LimitLeft, Option, TrueUp, Unit
from extproc.pb import usage_pb2 as pb
from tests.contract.ledger_kit import (
    DAY,
    OTHER_ROW,
    OVER,
    ROW,
    SERVERS,
    Desk,
    Store,
    admission,
    budget,
    costs,
    gcra,
    make_rid,
    need,
    usd,
    used,
)
from tests.contract.ledger_servers import Server

LIMITS = (600, 1000)
BUDGETS = [
    (),
    (usd("a"),),
    (usd("a"), usd("b", 700)),
    (usd("a"), budget("t", Unit.TOKENS, 500), budget("q", Unit.REQUESTS, 3), budget("c", Unit.CONCURRENT, 2)),
]
OPTIONS = [
    (costs(300, 100),),
    (Option(10, 400, 100, 2, 20, 1), Option(1, 300, 50, 1), Option(0, 10)),
    (Option(5, 100, 0, 30),),
    (Option(),),
]
RATES = [(), (gcra("x", burst=3),), (gcra("x", burst=3), gcra("y", limit=600, burst=20, cost=30))]
ROWS: list[RollupRow] = [ROW, OTHER_ROW, msgspec.structs.replace(ROW, team="third")]

_few = st.integers(0, 2)
_leases = st.sampled_from([OVER, 600_000])
_amounts = st.sampled_from([0, 1, 90, 300, 450, 1200])
_parts = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
OPERATIONS = st.one_of(
    st.tuples(st.just("reserve"), _few, _leases, _parts),
    st.tuples(st.just("reserve"), _few, _leases, _parts),
    st.tuples(st.just("plain"), _few, _leases),
    st.tuples(st.just("begin"), _few, _few, _leases, _amounts),
    st.tuples(st.just("begin"), _few, _few, _leases, _amounts),
    st.tuples(st.just("plain begin"), _few, _few),
    st.tuples(st.just("end"), _few, _few, st.booleans(), st.one_of(st.none(), _amounts), _parts, st.booleans()),
    st.tuples(st.just("end"), _few, _few, st.booleans(), _amounts, _parts, st.booleans()),
    st.tuples(st.just("finish"), _few),
    st.tuples(st.just("renew"), _few, _leases),
    st.tuples(st.just("expire"), _few),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("publish"), st.sampled_from(LIMITS)),
    st.tuples(st.just("adjust"), _few, st.sampled_from([-400, -50, 80, 900]), st.integers(0, 3)),
    st.tuples(st.just("note"), _few, st.integers(0, 2)),
    st.tuples(st.just("take"), _few, st.integers(0, 2), st.booleans()),
)


async def perform(desk: Desk, rids: list[bytes], adjusts: list[bytes], operation: tuple[Any, ...]) -> Any:
    """Run one drawn operation and return its answer without what depends on the moment."""
    store, org = desk.store, desk.org
    match operation:
        case "reserve", request, lease, (budgets, options, rates):
            parts = {"budgets": BUDGETS[budgets], "limits": RATES[rates]}
            return timeless(await desk.reserve(rids[request], *OPTIONS[options], lease=lease, **parts))
        case "plain", request, lease:
            return await store.reserve(org, rids[request], admission(rids[request]), lease)
        case "begin", request, number, lease, cost:
            return await desk.begin(rids[request], number, cost, cost // 3, lease=lease, row=ROWS[number])
        case "plain begin", request, number:
            return await store.begin(org, rids[request], number, need(number))
        case "end", request, number, final, cost, (budgets, _, rates), with_account:
            settlement = used(number, cost, ROWS[number])
            if not with_account:
                return await store.end(org, rids[request], number, settlement, final=final)
            true_ups = tuple(TrueUp.of(limit, 2) for limit in RATES[rates])
            account = Account(BUDGETS[budgets], true_ups)
            return await store.end(org, rids[request], number, settlement, final=final, account=account)
        case "finish", request:
            return await store.finish(org, rids[request])
        case "renew", request, lease:
            return await store.renew(org, [rids[request]], lease)
        case "expire", request:
            return await store.expire(org, rids[request])
        case "publish", limit:
            return await desk.publish(a=limit)
        case "adjust", which, nano_usd, budgets:
            return await store.adjust(org, adjusts[which], b"", ROWS[which], BUDGETS[budgets], nano_usd, nano_usd // 2)
        case "note", request, rates:
            noted = await store.note(org, rids[request], admission(rids[request]), ROW, RATES[rates])
            return noted.code, noted.blocked
        case "take", request, rates, back:
            taken = await store.take(org, rids[request], RATES[rates])
            if back:
                await store.give_back(org, rids[request], tuple(TrueUp.of(limit, 0) for limit in RATES[rates]))
            return taken.code, taken.blocked
        case _:
            return await store.sweep(org)


def timeless(grant: Grant) -> Grant:
    limits = tuple(LimitLeft(left.remaining, 0) for left in grant.limits)
    return msgspec.structs.replace(grant, time_ms=0, wait_ms=0, limits=limits)


def order(record: pb.UsageRecord) -> bytes:
    return record.SerializeToString(deterministic=True)


async def outcome(store: Store, org: str) -> tuple[Any, ...]:
    """Return everything that calls can have changed."""
    audit = await store.audit(org)
    rows = sorted(await store.rollups(org, DAY), key=lambda row: (row["team"], row["backend"]))
    # A sweep closes in order of leases, the twin in order of arrival.
    records = sorted(await store.records(org, 10_000), key=order)
    return (audit.open, audit.records, audit.windows), rows, records


@pytest.mark.parametrize("kind", SERVERS)
def test_twin_agrees_on_money(kind: str) -> None:
    """Any sequence of calls gives the same answers, windows, records and rollups in memory and on a server."""
    server = Server(kind)

    async def compare(operations: list[tuple[Any, ...]]) -> None:
        org, rids, adjusts = uuid.uuid4().hex, [make_rid() for _ in range(3)], [make_rid() for _ in range(3)]
        twin, real = MemoryTreasury(), RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        try:
            desks = [Desk(twin, org), Desk(real, org)]
            await asyncio.gather(*(desk.publish() for desk in desks))
            for operation in operations:
                expected, seen = [await perform(desk, rids, adjusts, operation) for desk in desks]
                if operation[0] != "publish":
                    assert expected == seen, operation
            assert await outcome(twin, org) == await outcome(real, org)
            delta = sum(record.delta_nano_usd for record in await real.records(org, 10_000))
            assert delta == sum(int(row["cost"]) for row in await real.rollups(org, DAY)) + _unrecorded(twin, org)
        finally:
            await real.close()

    @settings(max_examples=200, deadline=None, database=None)
    @given(st.lists(OPERATIONS, min_size=1, max_size=50))
    def run(operations: list[tuple[Any, ...]]) -> None:
        asyncio.run(compare(operations))

    try:
        run()
    finally:
        server.remove()


def _unrecorded(twin: MemoryTreasury, org: str) -> int:
    """Open reservations have paid what no record tells yet."""
    return -sum(entry.paid for entry in twin.book(org).reservations.values() if not entry.expired)
