"""What is dispatched without the store: bounded, written down before, and charged exactly once afterwards."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.core import events as ev
from extproc.core.admission import Identity, Plan
from extproc.core.usage import Tokens
from extproc.ledger import delivery
from extproc.ledger.base import LedgerUnavailable, RollupRow, Settlement
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.spool import Spool
from extproc.money.amounts import Account, Ask, Budget, Need, Option, Unit
from extproc.money.purse import Allowance
from extproc.server.cashier import Cashier, from_purse
from tests.stage_kit import NOW, RID, carried

BUDGET = Budget("org.all.usd.total", Unit.USD, 10_000, 0, 10**15, 0)
ROW = RollupRow("2026-11-23", "t", "", "", "", "g", "gpt")
SOME = Allowance(1000, 5, 60_000)
ASK = Ask(3, (BUDGET,))
PURSE = Ask(0, (BUDGET,))
IDS = ((NOW << 80 | number).to_bytes(16, "big") for number in itertools.count(1))


class Away(MemoryTreasury):
    """A store that can be away; `late`: begins that it carries out although no answer comes."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.away = True

    def _ask(self) -> None:
        if self.away:
            raise LedgerUnavailable("away")

    async def begin(self, *words: Any, **named: Any) -> Any:
        """Begin."""
        self._ask()
        return await super().begin(*words, **named)

    async def end(self, *words: Any, **named: Any) -> Any:
        """End."""
        self._ask()
        return await super().end(*words, **named)

    async def orgs(self) -> list[str]:
        """List."""
        self._ask()
        return await super().orgs()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "HASTE", (0.0,))
    monkeypatch.setattr(delivery, "PATIENCE", (0.0,))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A spool."""
    made = Spool(tmp_path, "s")
    yield made
    made.close()


def cashier(store: MemoryTreasury, spool: Spool | None) -> Cashier:
    """A worker's cashier, whose ids are numbers and whose time stands still."""
    return Cashier(store, spool, new_id=lambda: next(IDS), on_ended=lambda _org, _ended: None, clock=lambda: NOW)


def begin(need: int | None = 500, attempt: int = 1) -> ev.Begin:
    """An attempt before its dispatch."""
    return ev.Begin(attempt, "gpt", "g", None if need is None else Need(need, 40))


def end(cost: int | None = 120, attempt: int = 1, *, begun: bool = True) -> ev.End:
    """An attempt's end."""
    return ev.End(attempt, "gpt", "g", "exact", True, Tokens(input=3, output=4), cost, 200, 5, begun=begun)


async def settle(desk: Cashier, decided: ev.Carried, action: ev.End) -> None:
    """Settle as the performer does."""
    account = None if decided.ask is None else Account(decided.ask.budgets)
    await desk.end(decided, action, Settlement(b"", action.cost, 3, 4, ROW, decided.rid), account)


async def spent(store: MemoryTreasury) -> tuple[int, int, int]:
    """Spent, reserved and debt of the budget."""
    [window] = (await store.audit("o")).windows
    return window.spent, window.reserved, window.debt


def plan(*options: Option) -> Plan:
    """A plan of options."""
    return Plan(Identity("o", "t"), (), options, ())


def test_a_grant_of_the_purse() -> None:
    """The dearest option that the purse covers, marked as no store's, under the budgets that are charged later."""
    granted = cashier(Away(), None).grant(plan(Option(1, 9, 5000), Option(10, 50, 100, 30)), ASK, SOME)
    assert (granted.code, granted.ask) == ("OK", PURSE)
    assert granted.grant is not None
    assert (granted.grant.option, granted.grant.max_tokens) == (2, 30)
    assert from_purse(carried(ask=granted.ask))
    assert not from_purse(carried(ask=ASK))
    assert cashier(Away(), None).grant(plan(Option(1, 9, 5000)), ASK, SOME).code == "DENIED"


async def test_a_dispatch_without_the_store(spool: Spool) -> None:
    """The bound leaves the purse and the intent is on disk before the dispatch; the end is charged once when it can."""
    store = Away()
    desk, decided = cashier(store, spool), carried(ask=PURSE)
    assert desk.dispatch(decided, begin(700), ROW, SOME)
    assert (len(spool), spool.keys()) == (1, [])
    assert not desk.dispatch(decided, begin(400, 2), ROW, SOME), "the purse has 300 left"
    await settle(desk, decided, end(120))
    assert len(spool.keys()) == 1
    with pytest.raises(LedgerUnavailable):
        await desk.delivery.replay(spool)
    assert desk.grant(plan(Option(1, 1, 881)), ASK, SOME).code == "DENIED", "what ended stays taken"
    store.away = False
    await desk.delivery.replay(spool)
    assert await spent(store) == (120, 0, 0)
    [record] = await store.records("o")
    assert (record.state, record.admission.request_id, record.delta_tokens) == ("orphan", RID, 7)
    assert desk.grant(plan(Option(1, 1, 1000)), ASK, SOME).code == "OK", "the store has all: the purse is full again"


async def test_a_worker_that_dies_is_charged_in_full(spool: Spool, tmp_path: Path) -> None:
    """An intent alone is its whole bound."""
    store = Away()
    assert cashier(store, spool).dispatch(carried(ask=PURSE), begin(700), ROW, SOME)
    spool.close()
    store.away = False
    found = Spool(tmp_path, "s")
    await cashier(store, found).delivery.replay(found)
    assert await spent(store) == (700, 0, 0)
    [record] = await store.records("o")
    assert (record.delta_tokens, record.attempts[0].outcome) == (40, record.attempts[0].EXPIRED)
    found.close()


async def test_each_attempt_has_an_id_of_its_own(spool: Spool) -> None:
    """Two attempts of a request without a reservation are both charged: the first one's tombstone is not the second's."""
    store = Away()
    desk, decided = cashier(store, spool), carried(ask=PURSE)
    for attempt, cost in ((1, 30), (2, 40)):
        assert desk.dispatch(decided, begin(100, attempt), ROW, SOME)
        await settle(desk, decided, end(cost, attempt))
    store.away = False
    await desk.delivery.replay(spool)
    assert await spent(store) == (70, 0, 0)


@pytest.mark.parametrize("how", ["known", "unknown", "late"])
async def test_a_begin_without_an_answer(spool: Spool, how: str) -> None:
    """A reservation whose begin was not confirmed: the attempt takes from the purse, and is charged once."""
    store = Away()
    ask = Ask((await store.publish("o", b"t", 0, {})).epoch, (BUDGET,), (), (Option(1, 1, 500),))
    rid = bytes.fromhex(RID)
    at = MemoryTreasury.reserve
    rid = NOW.to_bytes(6, "big") + rid[6:]
    assert (await at(store, "o", rid, b"", ask=ask)).code == "OK"
    if how == "known":
        await MemoryTreasury.begin(store, "o", rid, 1, b"", bound=Need(500), row=ROW)
        await store.finish("o", rid)
    desk, decided = cashier(store, spool), carried(ask=ask, rid=rid.hex())
    assert desk.dispatch(decided, begin(500), ROW, SOME)
    if how == "late":
        await store.finish("o", rid)
    await settle(desk, decided, end(120, begun=False))
    store.away = False
    await desk.delivery.replay(spool)
    await store.finish("o", rid)
    assert await spent(store) == (120, 0, 0)
    assert [r.state for r in await store.records("o")] == (["unsent", "orphan"] if how == "late" else ["done"])


@pytest.mark.parametrize("need", [None, 500])
def test_without_an_allowance_nothing_is_dispatched(spool: Spool, need: int | None) -> None:
    """No purse, or no bound: no dispatch, and nothing is written."""
    assert not cashier(Away(), spool).dispatch(carried(ask=PURSE), begin(need), ROW, SOME if need is None else None)
    assert len(spool) == 0


def test_a_disk_that_is_full_gives_the_purse_back(tmp_path: Path) -> None:
    """What cannot be written down is not dispatched, and takes nothing."""
    spool = Spool(tmp_path, "s", 10)
    desk = cashier(Away(), spool)
    assert not desk.dispatch(carried(ask=PURSE), begin(700), ROW, SOME)
    assert desk.grant(plan(Option(1, 1, 1000)), ASK, SOME).code == "OK"
    spool.close()


async def test_what_is_not_reserved_settles_apart(spool: Spool) -> None:
    """Without budgets a request goes on without a reservation, and settles as an orphan that names it."""
    store = Away()
    store.away = False
    await settle(cashier(store, spool), carried(reserved=False), end())
    [record] = await store.records("o")
    assert (record.state, record.admission.request_id) == ("orphan", RID)


async def test_a_begin_is_taken_back(spool: Spool) -> None:
    """An attempt that is not made ends at no cost once the store answers."""
    store = Away()
    ask = Ask((await store.publish("o", b"t", 0, {})).epoch, (BUDGET,), (), (Option(1, 1, 500),))
    rid = NOW.to_bytes(6, "big") + bytes.fromhex(RID)[6:]
    await MemoryTreasury.reserve(store, "o", rid, b"", ask=ask)
    await MemoryTreasury.begin(store, "o", rid, 1, b"", bound=Need(500), row=ROW)
    await store.finish("o", rid)
    desk = cashier(store, spool)
    await desk.withdraw(carried(rid=rid.hex()), 1, Settlement(b"", 0, 0, 0, ROW, rid.hex()))
    store.away = False
    await desk.delivery.replay(spool)
    assert await spent(store) == (0, 0, 0)


async def test_a_restart_does_not_fill_the_purse(spool: Spool, tmp_path: Path) -> None:
    """However often a worker dies and is started anew while the store is away, together they dispatch one purse."""
    store, sent = Away(), 0
    for _ in range(6):
        desk = cashier(store, spool)
        with pytest.raises(LedgerUnavailable) if sent else contextlib.nullcontext():
            await desk.delivery.replay(spool)
        if desk.dispatch(carried(ask=PURSE), begin(300), ROW, SOME):
            sent += 1
        spool.close()
        spool = Spool(tmp_path, "s")
    assert sent == 3
    store.away = False
    desk = cashier(store, spool)
    await desk.delivery.replay(spool)
    assert await spent(store) == (900, 0, 0)
    assert desk.dispatch(carried(ask=PURSE), begin(300), ROW, SOME)
    spool.close()


async def test_a_restart_goes_on_with_the_latest_purse(tmp_path: Path) -> None:
    """Files that were left before, by another gateway, do not hide what the worker that just died had dispatched."""
    store, earlier = Away(), [Spool(tmp_path, "s") for _ in range(8)]
    for file in earlier:
        assert cashier(store, file).dispatch(carried(ask=PURSE), begin(1), ROW, SOME)
        file.close()
    dispatched = 0
    for _ in range(5):
        with contextlib.closing(Spool(tmp_path, "s")) as file:
            desk = cashier(store, file)
            await desk.delivery.inherit(file)
            dispatched += desk.dispatch(carried(ask=PURSE), begin(400), ROW, SOME)
    assert dispatched == 2
