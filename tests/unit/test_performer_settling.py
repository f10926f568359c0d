"""How the performer settles, finishes and renews with a store that loses answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from extproc.core import events as ev
from extproc.core.usage import Tokens
from extproc.ledger import delivery
from extproc.money.amounts import Ask
from extproc.pb import usage_pb2 as pb
from extproc.server import performer
from extproc.server.performer import new_id
from tests.performer_kit import Lossy, Stream, performer_of, reserved
from tests.stage_kit import HEADERS, NOW, Attempt, body, carried, request_stage

COST = 70


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performer, "END_RETRIES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(delivery, "PATIENCE", (0.0, 0.0, 0.0))


def used(*, begun: bool = True) -> ev.End:
    """An attempt that cost 70 n$."""
    return ev.End(1, "gpt", "g", "exact", True, Tokens(input=9, output=4), COST, 200, 5, begun=begun)


async def ended(store: Lossy, rid: str, ask: Ask | None, end: ev.End, *, reserved: bool = True) -> Stream:
    """Have the performer settle an attempt."""
    stream = Stream(rid, ask=ask, reserved=reserved)
    performer_of(store).perform(end, stream, stream)
    await stream.done()
    return stream


async def spent(store: Lossy) -> list[tuple[int, int, int]]:
    """Per window: spent, reserved, debt."""
    return [(window.spent, window.reserved, window.debt) for window in (await store.audit("o")).windows]


@pytest.mark.parametrize("lost", [{"end": 1}, {"end": 2}, {"begin": 1}, {"begin": 1, "end": 1}])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("took", [True, False])
async def test_an_end_is_settled_once(lost: dict[str, int], begun: bool, took: bool) -> None:
    """However many answers are lost, and whether the store heard of the attempt or not: one record, charged once."""
    store = Lossy(took=took, **lost)
    rid, ask = await reserved(store)
    if begun:
        need = pb.Attempt(number=1).SerializeToString()
        await super(Lossy, store).begin("o", bytes.fromhex(rid), 1, need)
    await ended(store, rid, ask, used(begun=begun))
    assert await spent(store) == [(COST, 0, 0)]
    assert len(store.book("o").log) == 1
    assert (await store.audit("o")).open == 0


@pytest.mark.parametrize("admitted", [True, False])
@pytest.mark.parametrize("took", [True, False])
async def test_an_end_without_a_reservation_is_recorded_once(admitted: bool, took: bool) -> None:
    """What the store does not know of is an orphan of its own, and one only, though its answer was lost."""
    store = Lossy(took=took, end=2)
    _, ask = await reserved(store)
    await ended(store, new_id(), ask, used(begun=False), reserved=admitted)
    assert await spent(store) == [(COST, 500, 0)]
    assert len(store.book("o").log) == 1


async def test_a_settlement_that_is_never_taken(caplog: pytest.LogCaptureFixture) -> None:
    """A store that stays away loses the settlement, and an operator is told what it cost."""
    store = Lossy(took=False, end=99)
    rid, ask = await reserved(store)
    await ended(store, rid, ask, used())
    [line] = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert f"request {rid} attempt 1 cost {COST}" in line


@pytest.mark.parametrize("wait", [True, False])
async def test_a_finish_is_repeated_after_the_client_heard(wait: bool) -> None:
    """A client that waits is told after the first try; what is held is given back when the store answers again."""
    store = Lossy(took=False, finish=2)
    rid, _ = await reserved(store)
    stream = Stream(rid)
    performer_of(store).perform(ev.Finish(wait=wait, status=503, org="o"), stream, stream)
    await stream.done()
    assert stream.heard == ([ev.Finished(None, 0)] if wait else [])
    assert await spent(store) == [(0, 0, 0)]
    assert store.asked["finish"] == 3


class Renewed(Lossy):
    """Notes whose leases are renewed."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: list[tuple[str, set[str]]] = []

    async def renew(self, org: str, rids: list[bytes], *words: Any) -> None:
        """Note the ids."""
        self.leases.append((org, {rid.hex() for rid in rids}))


async def test_leases_of_both_stages_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request keeps its lease from its reservation on: while Envoy makes its attempt, and while that runs."""
    monkeypatch.setattr(performer, "LEASE_MS", 0)
    monkeypatch.setattr(performer, "WATCH_EVERY", 0)
    store = Renewed()
    made = performer_of(store)
    waiting, early, attempt = request_stage(), request_stage(), Attempt()
    for event in (ev.RequestHeaders(HEADERS, False), ev.RequestBody(body()), ev.Reserved("OK")):
        waiting.receive(event, NOW)
    early.receive(ev.RequestHeaders(HEADERS, False), NOW)
    other = new_id()
    attempt.hear(ev.RequestHeaders({}, False, ev.pack(carried(rid=other)), "gpt/g", 1))
    for stage in (waiting, early, attempt.stage):
        made.watch(Stream("", stage))
    watch = asyncio.ensure_future(made.run_watch())
    while not store.leases:
        await asyncio.sleep(0)
    watch.cancel()
    assert waiting.carried is not None
    assert dict(store.leases[:2]) == {waiting.carried.admission.org: {waiting.carried.rid}, "o": {other}}
