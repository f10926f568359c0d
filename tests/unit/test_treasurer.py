"""The treasurer: whose budget table is in force, and when its absence means that the store lost it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from extproc.core.admission import Identity, Plan
from extproc.core.charging import refused
from extproc.ledger.base import Mark
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.money.amounts import Grant, Option, Unit
from extproc.money.tables import encode
from extproc.server import treasurer as module
from extproc.server.treasurer import TRIES, Treasurer
from tests.stage_kit import runtime

BUDGETS = "budgets: [{{for: {{team: web}}, requests: {limit}, per: total}}]\n"
PLAN = Plan(Identity("o", "web"), (), (Option(),), ())
NOW = 1_790_000_000_000
IDS = ((NOW << 80 | number).to_bytes(16, "big") for number in itertools.count(1))


def treasurer(store: MemoryTreasury, *, limit: int = 2, generation: int = 1, seen: Path | None = None) -> Treasurer:
    """A worker's treasurer with one budget."""
    return Treasurer(store, runtime(BUDGETS.format(limit=limit)), generation, seen)


def memory() -> MemoryTreasury:
    """A store of its own, whose time stands still."""
    return MemoryTreasury(lambda: NOW)


async def code(one: Treasurer) -> str:
    """What a reservation of the team is answered."""
    return (await one.reserve("o", next(IDS), b"", PLAN)).code


async def test_the_first_worker_publishes_and_the_second_follows() -> None:
    """An empty store gets the table of whoever comes first; the budget is one for all workers."""
    store = memory()
    first, second = treasurer(store), treasurer(store)
    assert [await code(first), await code(second), await code(first), await code(second)] == [
        "OK", "OK", "BUDGET", "BUDGET"]


async def test_a_newer_configuration_replaces_the_table() -> None:
    """A worker with a newer table publishes it; one with an older table follows at its next request."""
    store = memory()
    old = treasurer(store, limit=1)
    assert [await code(old), await code(old)] == ["OK", "BUDGET"]
    new = treasurer(store, limit=3, generation=2)
    assert [await code(new), await code(old), await code(old)] == ["OK", "OK", "BUDGET"]


async def test_a_lost_table_is_not_made_anew(tmp_path: Path) -> None:
    """A store that lost its data does not start again at zero: not while a worker runs, and not after its restart."""
    seen = tmp_path / "seen"
    one = treasurer(memory(), seen=seen)
    assert await code(one) == "OK"
    assert await code(treasurer(memory(), seen=seen)) == "EMPTY"
    assert await code(treasurer(memory(), seen=tmp_path / "of another store")) == "OK"


class Restless(MemoryTreasury):
    """A store whose clock is in another window at every reservation, or whose table is another each time."""

    def __init__(self, verdict: Any) -> None:
        super().__init__(lambda: NOW)
        self.verdict, self.asked = verdict, 0

    async def reserve(self, *words: Any, **named: Any) -> Any:
        """Refuse."""
        self.asked += 1
        return Grant(self.verdict, NOW + self.asked * 3_600_000)


@pytest.mark.parametrize("verdict", ["WINDOW", "STALE", "EMPTY"])
async def test_a_store_that_cannot_be_followed(verdict: str) -> None:
    """After some tries the request is refused as if the table were gone: 503, and never as an answer nobody knows."""
    store = Restless(verdict)
    answer = await treasurer(store).reserve("o", next(IDS), b"", PLAN)
    assert (answer.code, store.asked) == ("EMPTY", TRIES)
    problem = refused(answer, 0.5)
    assert (problem.http_status, problem.should_retry) == (503, True)


class Restored(MemoryTreasury):
    """A store whose stream can be set back; `behind`: how many connections it has had."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.has, self.behind = Mark(NOW + 1, 0, 10), 1
        self.missing: Mark | None = None

    async def standing(self, org: str, seen: Mark) -> tuple[Mark, bool]:
        """How far it is."""
        return self.has, self.has < seen or seen == self.missing

    @property
    def connections(self) -> int:
        """How often it was connected to."""
        return self.behind


async def test_a_store_that_went_back_is_refused_until_it_is_made_anew(tmp_path: Path) -> None:
    """A record that was seen and is gone refuses, on the next connection and after restarts, and holds nothing; a table
    that was put in force on the emptied store ends that."""
    store, seen = Restored(), tmp_path / "seen"
    one = treasurer(store, limit=9, seen=seen)
    assert await code(one) == "OK"
    before = (await store.audit("o")).open
    store.has, store.behind = Mark(NOW - 20, 0, 4), 2
    assert [await code(one), await code(one), await code(treasurer(store, limit=9, seen=seen))] == ["EMPTY"] * 3
    assert (await store.audit("o")).open == before
    assert await code(treasurer(store, limit=8, generation=2, seen=seen)) == "EMPTY", "a newer table is no repair"
    store.clock = lambda: NOW + 5
    store.book("o").epoch = 0
    assert (await store.publish("o", encode(one._own), 0, {})).epoch > NOW + 1
    assert [await code(one), await code(treasurer(store, limit=9, seen=seen))] == ["OK", "OK"]


async def test_what_this_worker_recorded_last_counts(tmp_path: Path) -> None:
    """A record that a call of this worker added since its last look is missed on the next connection, whatever the store
    has got meanwhile; what is recorded there before the look does not hide it."""
    store = Restored()
    one = treasurer(store, limit=9, seen=tmp_path / "seen")
    assert await code(one) == "OK"
    assert store.on_recorded is not None
    store.on_recorded("o", Mark(NOW + 2, 7))
    store.behind = 2
    store.on_recorded("o", Mark(NOW + 1, 1))
    assert await code(one) == "EMPTY"
    one.remember(now=True)
    assert await code(treasurer(store, limit=9, seen=tmp_path / "seen")) == "EMPTY"


async def test_the_loss_that_one_worker_finds_is_one_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker that had seen less, and records on, does not hide it: it refuses as well."""
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    store = Restored()
    one, two = (treasurer(store, limit=9, seen=tmp_path / "seen") for _ in range(2))
    assert [await code(one), await code(two)] == ["OK", "OK"]
    assert store.on_recorded is not None
    two._seen._write_at = float("inf")  # it has not come to write that down
    two._seen.note("o", Mark(NOW + 3, 0, 12))
    store.has, store.behind = Mark(NOW + 2, 0, 11), 2
    assert await code(one) == "OK", "it knows of nothing that is gone"
    store.has = Mark(NOW + 9, 0, 15)
    store.missing = Mark(NOW + 3, 0, 12)
    one._seen.note("o", store.has)
    one.remember(now=True)
    assert await code(two) == "EMPTY"
    assert [await code(one), await code(treasurer(store, limit=9, seen=tmp_path / "seen"))] == ["EMPTY", "EMPTY"]


async def test_a_fail_over_may_lose_the_last_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is to be expected, only records that were seen for a while may not be gone."""
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    store, now = Restored(), 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    one = Treasurer(store, runtime(BUDGETS.format(limit=99)), 1, tmp_path / "seen", 10_000)
    assert await code(one) == "OK"
    store.has = Mark(NOW - 15, 0, 9)
    assert await code(one) == "OK", "lost at once"
    now += 11
    assert await code(one) == "OK"
    now += 11
    store.has = Mark(NOW - 20, 0, 5)
    assert await code(one) == "EMPTY", "it was there for long"


def test_what_is_known_without_the_store() -> None:
    """The budgets of a request by the table that was in force, or our own; none that counts requests at once."""
    one = treasurer(memory())
    ask = one.offline("o", PLAN)
    assert (ask.epoch, [(b.unit, b.limit) for b in ask.budgets], ask.options) == (0, [(Unit.REQUESTS, 2)], PLAN.options)
