"""What tests of the performer stand on: a stream that notes what it hears, and a store that loses answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from unittest.mock import MagicMock

from extproc.core import events as ev
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.money.amounts import Ask, Budget, Option, Unit
from extproc.server.performer import Performer, Runtimes, new_id
from extproc.telemetry.tracing import Tracing
from tests.stage_kit import Attempt, carried, runtime

BUDGET = Budget("org.all.usd.total", Unit.USD, 10_000, 0, 10**15, 0)


class Lossy(MemoryTreasury):
    """A store whose first answers to a call never arrive: `lost` says how many of which; `took`: it carried them out."""

    def __init__(self, *, took: bool = True, **lost: int) -> None:
        super().__init__()
        self.lost, self.took = lost, took
        self.asked: dict[str, int] = {}

    async def _answer(self, name: str, work: Coroutine[Any, Any, Any]) -> Any:
        self.asked[name] = self.asked.get(name, 0) + 1
        if self.asked[name] > self.lost.get(name, 0):
            return await work
        if self.took:
            await work
        else:
            work.close()
        raise LedgerUnavailable("no reply")

    async def begin(self, *words: Any, **named: Any) -> Any:
        """Begin, or not."""
        return await self._answer("begin", super().begin(*words, **named))

    async def end(self, *words: Any, **named: Any) -> Any:
        """End, or not."""
        return await self._answer("end", super().end(*words, **named))

    async def finish(self, *words: Any, **named: Any) -> Any:
        """Finish, or not."""
        return await self._answer("finish", super().finish(*words, **named))


class Stream:
    """A stream around a stage, and its channel: what was heard, what runs."""

    def __init__(self, rid: str, stage: object = None, **decided: Any) -> None:
        if stage is None:
            attempt = Attempt()
            attempt.hear(ev.RequestHeaders({}, False, ev.pack(carried(rid=rid, **decided)), "gpt/g", 1))
            stage = attempt.stage
        self.stage = stage
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


def performer_of(store: MemoryTreasury, extra: str = "") -> Any:
    """A performer over a store, which traces nothing and whose treasurer does nothing."""
    nobody: Any = None
    deaf: Any = MagicMock()
    return Performer(Runtimes(runtime(extra)), store, Tracing(None, "test"), deaf, nobody, deaf, deaf)


async def reserved(store: MemoryTreasury) -> tuple[str, Ask]:
    """Reserve 500 n$ of a budget; return the request's id and what was asked."""
    rid = new_id()
    epoch, _ = await store.table("o")
    ask = Ask(epoch or (await store.publish("o", b"t", 0, {})).epoch, (BUDGET,), (), (Option(1, 1, 500, 0, 0, 0),))
    assert (await store.reserve("o", bytes.fromhex(rid), b"", ask=ask)).code == "OK"
    return rid, ask
