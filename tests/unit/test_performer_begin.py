"""An attempt that the store does not hear of: sent where money is not at stake, else refused and taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from extproc.core import events as ev
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.money.amounts import Ask, Budget, Need, Option, Unit
from extproc.server import performer
from extproc.server.performer import Performer, Runtimes, new_id
from tests.stage_kit import Attempt, carried, runtime

BUDGET = Budget("org.all.usd.total", Unit.USD, 10_000, 0, 10**15, 0)
DENIES = "budgets: [{for: {org: o}, usd: 1, per: total}]\n"


class Deaf(MemoryTreasury):
    """A store whose answers to the first `lost` begins never arrive; `took`: it carried them out."""

    def __init__(self, lost: int, *, took: bool) -> None:
        super().__init__()
        self.lost, self.took, self.asked = lost, took, 0

    async def begin(self, *words: Any, **named: Any) -> Any:
        """Begin, or not."""
        self.asked += 1
        if self.asked > self.lost:
            return await super().begin(*words, **named)
        if self.took:
            await super().begin(*words, **named)
        raise LedgerUnavailable("no reply")


class Stream:
    """A stream of an attempt, and its channel: what was heard, what runs."""

    def __init__(self, rid: str) -> None:
        attempt = Attempt()
        attempt.hear(ev.RequestHeaders({}, False, ev.pack(carried(rid=rid)), "gpt/g", 1))
        self.stage = attempt.stage
        self.rid, self.trace, self.last, self.pings = rid, "", 0.0, 0
        self.heard: list[ev.Event] = []
        self.work: list[asyncio.Task[None]] = []

    def hear(self, event: ev.Event) -> None:
        """Note an event."""
        self.heard.append(event)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Start work."""
        self.work.append(asyncio.ensure_future(work))

    async def done(self) -> None:
        """Wait for all work, also for what it starts."""
        while any(not task.done() for task in self.work):
            await asyncio.gather(*self.work)


async def begun(store: Deaf, extra: str, *, need: bool = True) -> str:
    """Reserve 500 n$, begin an attempt of 500 n$ through the performer, and return what the stage was told."""
    rid = new_id()
    ask = Ask((await store.publish("o", b"t", 0, {})).epoch, (BUDGET,), (), (Option(1, 1, 500, 0, 0, 0),))
    assert (await store.reserve("o", bytes.fromhex(rid), b"", ask=ask)).code == "OK"
    stream = Stream(rid)
    made: Any = Performer(Runtimes(runtime(extra)), store, None, None, None)  # pyright: ignore
    made.perform(ev.Begin(1, "gpt", "g", Need(500) if need else None), stream, stream)
    await stream.done()
    await store.finish("o", bytes.fromhex(rid))
    [heard] = stream.heard
    assert isinstance(heard, ev.Begun)
    return heard.code


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performer, "BEGIN_RETRIES", (0.0, 0.0, 0.0))


@pytest.mark.parametrize("took", [False, True])
@pytest.mark.parametrize("lost", [1, 2])
async def test_a_begin_is_repeated(lost: int, took: bool) -> None:
    """A store that is back at once lets the attempt go on, announced once."""
    store = Deaf(lost, took=took)
    assert await begun(store, DENIES) == "OK"
    [window] = (await store.audit("o")).windows
    assert (window.spent, window.reserved) == (0, 500)


@pytest.mark.parametrize("took", [False, True])
async def test_an_unannounced_attempt_is_not_made(took: bool) -> None:
    """Where budgets deny without the store nothing is dispatched unannounced, and nothing is held or charged for it."""
    store = Deaf(99, took=took)
    assert await begun(store, DENIES) == "DENIED"
    audit = await store.audit("o")
    assert [(window.spent, window.reserved, window.debt) for window in audit.windows] == [(0, 0, 0)]
    assert audit.open == 0


@pytest.mark.parametrize("need", [False, True])
async def test_without_denial_the_attempt_goes_on(need: bool) -> None:
    """Where nothing is to be denied, an attempt waits for one answer of the store and goes on without it."""
    store = Deaf(99, took=False)
    assert await begun(store, DENIES.replace("}]", "}]\nmoney: {store_down: allow}") if need else "", need=need) == (
        "unavailable")
    assert store.asked == 1
