"""Short chaos through Envoy, workers and the embedded store; and the proof that the driver can fail."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

import msgspec
import pytest

from extproc.ledger.redis_treasury import RedisTreasury
from extproc.pb import usage_pb2 as pb
from tests.chaos.data_plane import Chaos, missing, report
from tests.chaos.data_plane_judge import Facts, Judge, in_words

RARE = {"record unsent"}
"""What a few hundred requests may never do, because a client has to leave within a millisecond; 20,000 always do."""


@pytest.fixture(scope="module")
def played() -> tuple[Chaos, Facts]:
    """One run of 800 requests, and what is known after it."""
    chaos = Chaos(800, concurrency=120, seed=7, kill_every=2.5, quiet=3.0)
    return chaos, asyncio.run(chaos.run())


def test_money_holds(played: tuple[Chaos, Facts]) -> None:
    """Whatever dies, leaves and breaks off: no budget is overspent, every complete answer is charged to the n$."""
    chaos, facts = played
    judge = Judge(facts).judge()
    assert judge.violations == [], report(chaos, judge)
    assert set(missing(chaos, judge)) <= RARE, report(chaos, judge)


def exact(facts: Facts, state: str = "done") -> pb.UsageRecord:
    """A record whose one attempt was charged what the provider reported."""
    return next(r for r in facts.records if r.state == state and len(r.attempts) == 1
                and r.attempts[0].outcome == pb.Attempt.EXACT and r.delta_nano_usd)


def dearer(facts: Facts) -> None:
    """The provider charges one nano-dollar more for one answer."""
    number = int(exact(facts).attempts[0].model_reported.rpartition("-b")[2])
    entry = facts.bill[number]
    assert entry.cost is not None
    entry.cost += 1


def forgotten(facts: Facts) -> None:
    """The ledger has no record of a request that was answered."""
    facts.records.remove(exact(facts))


def twice(facts: Facts) -> None:
    """A request is recorded two times."""
    facts.records.append(exact(facts))


def cheaper(facts: Facts) -> None:
    """A request is charged one nano-dollar less than its attempt cost."""
    exact(facts).delta_nano_usd -= 1


def halved(facts: Facts) -> None:
    """A dead worker's attempt is charged less than the whole need."""
    record = next(r for r in facts.records if r.state == "expired" and r.delta_nano_usd)
    record.delta_nano_usd //= 2


def given(facts: Facts) -> None:
    """What a provider was asked is recorded as never sent."""
    record = exact(facts)
    record.state, record.delta_nano_usd = "unsent", 0
    del record.attempts[:]


def swapped(facts: Facts) -> None:
    """A request is charged for the answer to another one."""
    records = [r for r in facts.records if r.state == "done" and len(r.attempts) == 1 and r.attempts[0].model_reported]
    records[0].attempts[0].model_reported = records[-1].attempts[0].model_reported


def over(facts: Facts) -> None:
    """A window holds more than its limit."""
    facts.windows[0] = msgspec.structs.replace(facts.windows[0], spent=facts.windows[0].limit + 1)


def foreign(facts: Facts) -> None:
    """A client gets an error in words that its library cannot read."""
    one = next(one for one in facts.tries.values() if one.outcome == "error")
    one.strange = "upstream connect error"


@pytest.mark.parametrize(("body", "anthropic", "good"), [
    (b'{"type":"error","error":{"type":"api_error","message":"m"}}', True, True),
    (b'{"type":"error","error":{"type":"api_error","message":"m"}}', False, False),
    (b'{"error":{"type":"server_error","message":"m","param":null,"code":"c"}}', False, True),
    (b'{"error":{"type":"server_error","message":"m","param":null,"code":"c"}}', True, False),
    (b"upstream connect error", False, False), (b"", True, False), (b'{"error":"m"}', False, False), (b"[1]", True, False),
])
def test_the_words_of_a_client(body: bytes, anthropic: bool, good: bool) -> None:
    """An error counts as in the client's words only where its own library could read it."""
    assert in_words(body, anthropic=anthropic) is good


@pytest.mark.parametrize("lie", [dearer, forgotten, twice, cheaper, halved, given, swapped, over, foreign])
def test_a_wrong_book_is_noticed(played: tuple[Chaos, Facts], lie: Callable[[Facts], None]) -> None:
    """The judge fails when one fact of the same run is changed."""
    changed = again(played[1])
    assert Judge(changed).judge().violations == []
    lie(changed)
    assert Judge(changed).judge().violations


def again(facts: Facts) -> Facts:
    """The same facts, which may be changed."""
    changed = copy.copy(facts)
    changed.bill = [copy.copy(entry) for entry in facts.bill]
    changed.windows = list(facts.windows)
    changed.tries = {marker: copy.copy(one) for marker, one in facts.tries.items()}
    changed.records = []
    for record in facts.records:
        own = pb.UsageRecord()
        own.CopyFrom(record)
        changed.records.append(own)
    return changed


@pytest.fixture(scope="module")
def away() -> tuple[Chaos, Facts]:
    """A run whose store stays away for a while, and a worker dies meanwhile; each has a purse of ten cents."""
    chaos = Chaos(250, concurrency=60, store="redis", seed=6, kill_every=60, quiet=2.0, purse=0.1, away=1.4)
    return chaos, asyncio.run(chaos.run())


def test_purses_bound_what_goes_on_without_the_store(away: tuple[Chaos, Facts]) -> None:
    """Nothing is billed beyond budgets and purses, and all that went on reaches the ledger, each attempt once."""
    chaos, facts = away
    judge = Judge(facts).judge()
    assert judge.violations == [], report(chaos, judge)
    assert judge.seen["without the store: exact"] > 5, report(chaos, judge)
    assert judge.seen["status 503"] + chaos.seen["status 503"] > 0, report(chaos, judge)


def replayed_twice(facts: Facts) -> None:
    """An attempt that a purse paid for is charged again, to an id of its own."""
    facts.records.append(next(r for r in facts.records if r.state == "orphan" and r.delta_nano_usd))


def never_replayed(facts: Facts) -> None:
    """An attempt that a purse paid for is in no record."""
    facts.records.remove(exact(facts, "orphan"))


def overdrawn(facts: Facts) -> None:
    """The purses held less than what the budgets owe."""
    facts.purses = 1
    facts.windows = [msgspec.structs.replace(window, debt=window.debt + 2) for window in facts.windows]


@pytest.mark.parametrize("lie", [replayed_twice, never_replayed, overdrawn, over, dearer])
def test_a_wrong_book_of_purses_is_noticed(away: tuple[Chaos, Facts], lie: Callable[[Facts], None]) -> None:
    """The judge fails when one fact of a run without the store is changed."""
    changed = again(away[1])
    lie(changed)
    assert Judge(changed).judge().violations


async def _spend(ledger: RedisTreasury) -> None:
    """Add a nano-dollar to what the org has spent, past the ledger."""
    audit = await ledger.audit("default")
    [window] = [window.window for window in audit.windows if window.budget.startswith("org.")]
    await ledger.door.call(("HINCRBY", f"{{default}}:b:{window}", "s", 1))


def test_a_tampered_window_is_noticed() -> None:
    """The whole run fails when the store's window of a budget is changed by one nano-dollar while it goes on."""
    chaos = Chaos(60, concurrency=30, seed=8, kill_every=60, strikes=0, quiet=1.0, tamper=_spend)
    judge = Judge(asyncio.run(chaos.run())).judge()
    assert any(text.startswith("sums differ") for text in judge.violations), report(chaos, judge)
