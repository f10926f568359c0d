"""The treasurer: whose budget table is in force, and when its absence means that the store lost it."""

from __future__ import annotations

import itertools
from pathlib import Path

from extproc.core.admission import Identity, Plan
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.money.amounts import Option
from extproc.server.treasurer import Treasurer
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
