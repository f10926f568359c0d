"""Limits that backends share: what a request took is corrected when it was sent, and given back when it never was."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from extproc.core import events as ev
from extproc.core.admission import Identity, Plan, Shared
from extproc.core.usage import Tokens
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.money.amounts import Option, RateLimit
from extproc.pb import usage_pb2 as pb
from extproc.server import performer
from extproc.server.performer import Performer, Runtimes, new_id
from extproc.server.treasurer import Treasurer
from extproc.telemetry.tracing import Tracing
from tests.performer_kit import Stream
from tests.stage_kit import ADMISSION, HEADERS, NOW, body, request_stage, runtime

HOUR = 3_600_000
LIMITS = (RateLimit("backend.x.requests.hour", HOUR, 2, 2, 1), RateLimit("backend.x.tokens.hour", HOUR, 100, 100, 50))
"""Two requests exhaust each of them."""
PLAN = Plan(Identity("o", "t"), (), (Option(),), (), ((Shared("be:gpt", LIMITS, moves=False),),))


class Once(MemoryTreasury):
    """A store that takes a finish whose answer is lost."""

    lost = 0

    async def finish(self, *words: Any) -> Any:
        """Finish, and maybe answer."""
        told = await super().finish(*words)
        self.lost -= 1
        if self.lost >= 0:
            raise LedgerUnavailable("no reply")
        return told


def performer_of(store: MemoryTreasury) -> Performer:
    """A performer with a treasurer."""
    made, deaf = runtime(), MagicMock()
    return Performer(Runtimes(made), store, Tracing(None, "test"), Treasurer(store, made, 1), deaf, deaf, deaf)


async def reserve(made: Performer) -> tuple[str, Any]:
    """Reserve; return what was answered, and the stream."""
    stream: Any = Stream(new_id())
    made.perform(ev.Reserve(ADMISSION, PLAN), stream, stream)
    await stream.done()
    return stream.heard[-1].code, stream


async def finish(made: Performer, stream: Any, **more: Any) -> None:
    """Say that no further attempt comes."""
    made.perform(ev.Finish(wait=False, status=0, org="o", taken=stream.heard[-1].taken, **more), stream, stream)
    await stream.done()


async def test_a_request_that_is_never_sent_gives_back_all() -> None:
    """However many clients leave before their request is sent, the limit has room for those that stay."""
    store = MemoryTreasury(lambda: 1_790_000_000_000)
    made = performer_of(store)
    for _ in range(5):
        code, stream = await reserve(made)
        assert code == "OK"
        await finish(made, stream)
    assert [(await reserve(made))[0] for _ in range(3)] == ["OK", "OK", "LIMIT"]


@pytest.mark.parametrize("ended", [False, True])
async def test_a_request_that_was_sent_keeps_its_share(ended: bool) -> None:
    """Whether its attempt still runs or has failed: what the backend got counts against its limit."""
    store = MemoryTreasury(lambda: 1_790_000_000_000)
    made = performer_of(store)
    for _ in range(2):
        _, stream = await reserve(made)
        blob = pb.Attempt(number=1, backend="gpt", model_used="g").SerializeToString()
        assert await store.begin("o", bytes.fromhex(stream.rid), 1, blob) == "OK"
        if ended:
            failed = ev.End(1, "gpt", "g", "failed", False, Tokens(), 0, 500, 5)
            attempt: Any = Stream(stream.rid, ask=stream.heard[-1].ask)
            made.perform(failed, attempt, attempt)
            await attempt.done()
        await finish(made, stream)
    assert (await reserve(made))[0] == "LIMIT"


async def test_an_answered_request_keeps_its_share() -> None:
    """Also where the store knows of no attempt, because it was away when that began."""
    made = performer_of(MemoryTreasury(lambda: 1_790_000_000_000))
    for _ in range(2):
        _, stream = await reserve(made)
        await finish(made, stream, attempt=1, backend="gpt/g")
    assert (await reserve(made))[0] == "LIMIT"


async def test_a_lost_answer_gives_back_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finish that is repeated gives nothing back twice; a share that stays drains with time."""
    monkeypatch.setattr(performer, "END_RETRIES", (0.0, 0.0, 0.0))
    now = [1_790_000_000_000]
    store = Once(lambda: now[0])
    made = performer_of(store)
    store.lost = 1
    _, stream = await reserve(made)
    await finish(made, stream)
    assert [(await reserve(made))[0] for _ in range(2)] == ["OK", "LIMIT"]
    now[0] += HOUR
    assert (await reserve(made))[0] == "OK"


@pytest.mark.parametrize("early", [False, True])
def test_the_stage_says_what_was_taken(early: bool) -> None:
    """A client that leaves, before or after its reservation is answered: finish names the limits."""
    stage = request_stage()
    for event in (ev.RequestHeaders(HEADERS, False), ev.RequestBody(body())):
        stage.receive(event, NOW)
    taken = PLAN.shared[0][0]
    told = [*stage.receive(ev.Closed(), NOW)] if early else []
    told += stage.receive(ev.Reserved("OK", taken=taken), NOW)
    told += stage.receive(ev.Closed(), NOW) if not early else []
    assert [action.taken for action in told if isinstance(action, ev.Finish)] == [taken]
