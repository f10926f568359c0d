"""Without the store: what the performer lets go on from a worker's purse, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from extproc.core import events as ev
from extproc.core.admission import Identity, Plan
from extproc.core.usage import Tokens
from extproc.ledger import delivery
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.spool import Spool
from extproc.money.amounts import Need, Option
from extproc.pb import usage_pb2 as pb
from extproc.server import performer
from extproc.server.performer import Performer, Runtimes, new_id
from extproc.server.treasurer import Treasurer
from extproc.telemetry.tracing import Tracing
from tests.performer_kit import Stream
from tests.stage_kit import ADMISSION, runtime

BUDGETS = "budgets: [{for: {org: o}, usd: 1, per: total}]\n"
PURSE = "money: {allow: {usd: 0.000001, requests: 2, for: 1m}}\n"
PLAN = Plan(Identity("o", "t"), (), (Option(1, 1, 600),), ())


class Away(MemoryTreasury):
    """A store that does not answer while it is away."""

    away = True

    def __getattribute__(self, name: str) -> Any:
        if name in ("reserve", "begin", "end", "finish", "orgs", "table", "standing", "is_open") and self.away:
            async def gone(*_: Any, **__: Any) -> Any:
                raise LedgerUnavailable("away")

            return gone
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performer, "BEGIN_RETRIES", (0.0,))
    monkeypatch.setattr(performer, "END_RETRIES", (0.0,))
    monkeypatch.setattr(delivery, "HASTE", (0.0,))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A spool."""
    made = Spool(tmp_path, "s")
    yield made
    made.close()


def performer_of(store: MemoryTreasury, spool: Spool, extra: str = BUDGETS + PURSE) -> Performer:
    """A performer with its treasurer."""
    made, deaf = runtime(extra), MagicMock()
    treasurer = Treasurer(store, made, 1)
    return Performer(Runtimes(made), store, Tracing(None, "test"), treasurer, deaf, deaf, deaf, spool)


async def reserve(made: Performer, plan: Plan | None = PLAN) -> ev.Reserved:
    """What a reservation is answered."""
    stream: Any = Stream(new_id())
    made.perform(ev.Reserve(ADMISSION, plan), stream, stream)
    await stream.done()
    return stream.heard[0]


async def begin(made: Performer, stream: Any, need: int | None = 600) -> str:
    """What a begin is answered."""
    made.perform(ev.Begin(1, "gpt", "g", None if need is None else Need(need)), stream, stream)
    await stream.done()
    return stream.heard[-1].code


async def end(made: Performer, stream: Any, cost: int = 70, *, begun: bool = True) -> None:
    """An attempt's end."""
    made.perform(ev.End(1, "gpt", "g", "exact", True, Tokens(input=9, output=4), cost, 200, 5, begun=begun), stream,
                 stream)
    await stream.done()


async def spent(store: MemoryTreasury) -> int:
    """What the budget has spent."""
    return sum(window.spent + window.debt for window in (await store.audit("o")).windows)


async def test_from_reservation_to_settlement(spool: Spool) -> None:
    """A request goes from the purse through its attempt into the books of the store that is back, once."""
    store = Away()
    made = performer_of(store, spool)
    granted = await reserve(made)
    assert (granted.code, granted.ask and granted.ask.epoch) == ("OK", 0)
    stream: Any = Stream(new_id(), ask=granted.ask)
    assert await begin(made, stream) == "OK"
    assert len(spool) == 1
    await end(made, stream)
    store.away = False
    await made.cashier.delivery.replay(spool)
    assert await spent(store) == 70
    assert [r.state for r in await store.records("o")] == ["orphan"]


async def test_an_empty_purse_refuses(spool: Spool) -> None:
    """What the purse does not cover is refused, at its reservation and at its begin; nothing is written for it."""
    made = performer_of(Away(), spool)
    granted = await reserve(made)
    first, second = Stream(new_id(), ask=granted.ask), Stream(new_id(), ask=granted.ask)
    assert [await begin(made, first), await begin(made, second)] == ["OK", "DENIED"]
    assert (await reserve(made)).code == "DENIED"
    assert len(spool) == 1


async def test_a_begin_that_is_not_confirmed(spool: Spool) -> None:
    """With a reservation whose begin gets no answer the attempt goes on from the purse, while there is something in it."""
    store = Away()
    made = performer_of(store, spool)
    store.away = False
    granted = await reserve(made)
    assert granted.ask is not None
    assert granted.ask.epoch > 0
    store.away = True
    first, second = Stream(new_id(), ask=granted.ask), Stream(new_id(), ask=granted.ask)
    assert [await begin(made, first), await begin(made, second)] == ["unavailable", "DENIED"]
    await end(made, first, begun=False)
    store.away = False
    await made.cashier.delivery.replay(spool)
    assert await spent(store) == 70


@pytest.mark.parametrize("apart", [True, False])
async def test_a_stream_that_is_over_dispatches_nothing(spool: Spool, apart: bool) -> None:
    """A client that leaves before its begin is answered takes nothing from the purse and leaves no intent."""
    store = Away()
    made = performer_of(store, spool)
    granted = await reserve(made)
    if not apart:
        store.away = False
        granted = await reserve(made)
        store.away = True
    stream: Any = Stream(new_id(), ask=granted.ask)
    made.perform(ev.Begin(1, "gpt", "g", Need(600)), stream, stream)
    await end(made, stream, 0)
    assert stream.heard[-1].code == "DENIED"
    store.away = False
    await made.cashier.delivery.replay(spool)
    assert (len(spool), await spent(store)) == (0, 0)
    assert (await reserve(made)).code == "OK"


@pytest.mark.parametrize(("extra", "plan", "code"), [
    (BUDGETS, PLAN, "unavailable"), ("", None, "unavailable"), (BUDGETS + PURSE, None, "unavailable"),
    (BUDGETS + PURSE, PLAN, "OK"),
])
async def test_who_has_a_purse(spool: Spool, extra: str, plan: Plan | None, code: str) -> None:
    """Without a purse, or without money at stake, the stage decides by the configuration alone."""
    assert (await reserve(performer_of(Away(), spool, extra), plan)).code == code


@pytest.mark.parametrize("reserved", [True, False])
@pytest.mark.parametrize("dies", [True, False])
async def test_an_attempt_without_budgets_is_recorded(tmp_path: Path, reserved: bool, dies: bool) -> None:
    """Where nothing bounds what goes on without the store it is written down all the same: an attempt whose worker dies
    has a record, of unknown cost; one that ends is recorded once, as it ended."""
    store, spool = Away(), Spool(tmp_path, "s")
    made = performer_of(store, spool, "")
    stream: Any = Stream(new_id(), reserved=reserved)
    made.perform(ev.Begin(1, "gpt", "g"), stream, stream)
    assert len(spool) == int(not reserved), "before anything can be sent"
    await stream.done()
    assert [event.code for event in stream.heard] == (["unavailable"] if reserved else [])
    assert len(spool) == 1
    if not dies:
        await end(made, stream, begun=False)
    spool.close()
    store.away = False
    later = Spool(tmp_path, "s")
    await performer_of(store, later, "").cashier.delivery.replay(later)
    [record] = await store.records("o")
    [attempt] = record.attempts
    assert (attempt.number, attempt.backend, attempt.outcome, attempt.HasField("cost_nano_usd"), record.delta_nano_usd) == (
        (1, "gpt", pb.Attempt.EXPIRED, False, 0) if dies else (1, "gpt", pb.Attempt.EXACT, True, 70))
    assert record.admission.request_id == stream.rid
    assert len(later) == 0
    later.close()


async def test_nothing_is_written_down_while_the_store_answers(spool: Spool) -> None:
    """The usual way costs no disk."""
    store = Away()
    store.away = False
    stream: Any = Stream(new_id())
    assert await store.reserve("o", bytes.fromhex(stream.rid), b"") == "OK"
    assert await begin(performer_of(store, spool, ""), stream, None) == "OK"
    assert len(spool) == 0
