"""What takes hours or days, played with the twin's clock."""

from __future__ import annotations

import random
from collections import deque

import pytest

from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.money.amounts import HORIZON_MS, Unit
from extproc.money.limits import rate_limit
from extproc.money.tables import Entry
from tests.contract.ledger_kit import OVER, Desk, costs, make_rid, usd

START = 1_795_438_800_000
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Clock:
    def __init__(self) -> None:
        self.ms = START

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def desk(clock: Clock) -> Desk:
    made = Desk(MemoryTreasury(clock), "o")
    await made.publish()
    return made


@pytest.mark.parametrize(("strict", "most"), [(False, 48_000), (True, 40_000)])
async def test_worst_period(desk: Desk, clock: Clock, strict: bool, most: int) -> None:
    """No period lets through more than limit + burst; under a strict limit not more than the limit."""
    draw = random.Random(3)
    passed: deque[tuple[int, int]] = deque()
    worst = 0
    for _ in range(20_000):
        cost = draw.choice((100, 700, 3000))
        limit = rate_limit("tpm", 40_000, MINUTE, cost, strict=strict)
        clock.ms += 10 * MINUTE if draw.random() < 0.001 else draw.randint(0, 60)
        if (await desk.reserve(make_rid(clock.ms), costs(0), limits=(limit,))).code == "OK":
            passed.append((clock.ms, cost))
        while passed and passed[0][0] <= clock.ms - MINUTE:
            passed.popleft()
        worst = max(worst, sum(cost for _, cost in passed))
    assert most * 0.9 < worst <= most


async def test_every_wait_is_exact(desk: Desk, clock: Clock) -> None:
    """A millisecond before its wait is over a request is refused, and then it fits: for any limit and cost."""
    draw = random.Random(4)
    refusals = 0
    for number in range(2000):
        cost = draw.randint(1, 5000)
        limit = rate_limit("tpm", 40_000, MINUTE, cost)
        grant = await desk.reserve(make_rid(clock.ms), costs(0), limits=(limit,))
        if grant.code == "LIMIT":
            refusals += 1
            clock.ms += grant.wait_ms - 1
            assert (await desk.reserve(make_rid(clock.ms), costs(0), limits=(limit,))).code == "LIMIT", number
            clock.ms += 1
            assert (await desk.reserve(make_rid(clock.ms), costs(0), limits=(limit,))).code == "OK", number
        clock.ms += draw.randint(0, 200)
    assert refusals > 500


async def test_windows_roll(desk: Desk, clock: Clock) -> None:
    """Each hour has the whole limit; what was admitted before the hour is charged to its own."""
    entry = Entry("hour", Unit.USD, 100, "hour")
    spent = []
    for _ in range(5):
        budget = entry.at(clock.ms)
        rid = make_rid(clock.ms)
        assert (await desk.reserve(rid, costs(100), budgets=(budget,))).code == "OK"
        assert (await desk.reserve(make_rid(clock.ms), costs(1), budgets=(budget,))).code == "BUDGET"
        clock.ms += HOUR
        assert (await desk.reserve(make_rid(clock.ms), costs(1), budgets=(budget,))).code == "WINDOW"
        await desk.end(rid, 1, 60, budget)
        spent.append(await desk.state("hour"))
    assert spent == [(60, 0, 0)] * 5  # the window before is kept for an hour only


async def test_beyond_the_horizon(desk: Desk, clock: Clock) -> None:
    """Two days late an end still corrects or is known; later it is TOO_OLD and changes nothing."""
    rids = [make_rid(clock.ms) for _ in range(3)]
    for rid in rids[:2]:
        await desk.reserve(rid, costs(100), budgets=(usd(limit=500, start_ms=START, end_ms=START + DAY, keep_ms=8 * DAY),))
        await desk.begin(rid, 1, 100, lease=OVER)
    await desk.store.sweep("o")
    clock.ms += HORIZON_MS - 1
    assert (await desk.end(rids[0], 1, 30)).code == "LATE"
    assert await desk.state() == (130, 0, 0)
    clock.ms += MINUTE + 1
    codes = [(await desk.end(rid, 1, 30)).code for rid in rids]
    assert codes == ["DUP", "TOO_OLD", "TOO_OLD"]
    assert await desk.state() == (130, 0, 0)


async def test_renewed_for_hours(desk: Desk, clock: Clock) -> None:
    """A stream that lives for hours keeps its hold as long as its lease is renewed every third of it."""
    rid = make_rid(clock.ms)
    budget = usd(start_ms=START, end_ms=START + DAY)
    await desk.reserve(rid, costs(100), budgets=(budget,))
    await desk.begin(rid, 1, 100)
    for _ in range(300):
        clock.ms += 40_000
        await desk.store.renew("o", [rid])
        assert await desk.store.sweep("o") == 0
    assert (await desk.end(rid, 1, 70, budget)).code == "DONE"
    clock.ms += 121_000
    assert await desk.store.sweep("o") == 0
    await desk.check_rest()
