"""An attempt that the store does not hear of: sent where money is not at stake, else refused and taken back."""

from __future__ import annotations

import pytest

from extproc.core import events as ev
from extproc.ledger import delivery
from extproc.money.amounts import Need
from extproc.server import performer
from tests.performer_kit import Lossy, Stream, performer_of, reserved

DENIES = "budgets: [{for: {org: o}, usd: 1, per: total}]\n"
LIMITS = "limits: [{for: {org: o}, requests: 60, per: minute}]\n"


async def begun(store: Lossy, extra: str, *, need: bool = True) -> str:
    """Reserve 500 n$, begin an attempt of 500 n$ through the performer, and return what the stage was told."""
    rid, _ = await reserved(store)
    stream = Stream(rid)
    performer_of(store, extra).perform(ev.Begin(1, "gpt", "g", Need(500) if need else None), stream, stream)
    await stream.done()
    await store.finish("o", bytes.fromhex(rid))
    [heard] = stream.heard
    assert isinstance(heard, ev.Begun)
    return heard.code


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performer, "BEGIN_RETRIES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(performer, "END_RETRIES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(delivery, "PATIENCE", (0.0, 0.0, 0.0))


@pytest.mark.parametrize("took", [False, True])
@pytest.mark.parametrize("lost", [1, 2])
async def test_a_begin_is_repeated(lost: int, took: bool) -> None:
    """A store that is back at once lets the attempt go on, announced once."""
    store = Lossy(took=took, begin=lost)
    assert await begun(store, DENIES) == "OK"
    [window] = (await store.audit("o")).windows
    assert (window.spent, window.reserved) == (0, 500)


@pytest.mark.parametrize("took", [False, True])
async def test_an_unannounced_attempt_is_not_made(took: bool) -> None:
    """Where budgets deny without the store nothing is dispatched unannounced, and nothing is held or charged for it."""
    store = Lossy(took=took, begin=99)
    assert await begun(store, DENIES) == "DENIED"
    audit = await store.audit("o")
    assert [(window.spent, window.reserved, window.debt) for window in audit.windows] == [(0, 0, 0)]
    assert audit.open == 0


@pytest.mark.parametrize("need", [False, True])
async def test_without_denial_the_attempt_goes_on(need: bool) -> None:
    """Where nothing is to be denied, an attempt waits for one answer of the store and goes on without it."""
    store = Lossy(took=False, begin=99)
    assert await begun(store, LIMITS if need else "", need=need) == "unavailable"
    assert store.asked["begin"] == 1


async def test_a_begin_that_cannot_be_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    """A store that stays away keeps the begin until its lease ends, which an operator is told with the request's id."""
    store = Lossy(took=False, begin=99, end=99)
    assert await begun(store, DENIES) == "DENIED"
    assert store.asked["end"] == 3
    [line] = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "a begin was not taken back: request 0" in line
    assert "attempt 1" in line
