"""Carries out what stages decide: ledger calls, spans, metrics, the log line; feeds the answers back as events."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from typing import Protocol

from extproc.core import events as ev
from extproc.core.admission import Plan
from extproc.core.attempt_stage import AttemptStage
from extproc.core.request_stage import RequestStage
from extproc.core.usage import with_passes
from extproc.ledger.base import LEASE_MS, BeginCode, LedgerUnavailable, Treasury
from extproc.ledger.key_cache import KeyCache
from extproc.ledger.spool import Spool
from extproc.money.amounts import BegunCode, Crossing, Ended
from extproc.money.purse import Allowance
from extproc.pb import usage_pb2 as pb
from extproc.runtime import Runtime
from extproc.server.board import Board, listed
from extproc.server.cashier import Cashier, from_purse
from extproc.server.mirrors import Mirrors
from extproc.server.records import (
    account,
    admission_blob,
    begin_blob,
    finished,
    log_line,
    rollup_row,
    settlement,
    withdrawal,
)
from extproc.server.seam import Channel
from extproc.server.treasurer import Treasurer
from extproc.telemetry import metrics
from extproc.telemetry.tracing import Tracing
from extproc.tokens import counter

_log = logging.getLogger("extproc")
_access = logging.getLogger("extproc.access")
WATCH_EVERY = 0.25
SWEEP_EVERY = 60.0
BEGIN_RETRIES = (0.1, 0.4, 0.0)
"""Pauses after the tries to announce an attempt: a store that is started anew is back by then."""
END_RETRIES = (0.0, 0.1, 0.5, 2.0, 5.0, 10.0, 30.0)
"""Pauses before the repeats of a settlement that the store did not take (every call may be repeated blindly)."""
LAST_WORDS = 0.03
"""Seconds in which what the last attempts said reaches the store, also from another worker."""


def new_id() -> str:
    """A request id: UUIDv7 layout (RFC 9562, section 5.7), 32 hex digits, never taken from a client."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    return f"{value & ~(0x3 << 62) | 0x2 << 62:032x}"


class Runtimes:
    """The current runtime and the last few before it: a request decided under an old one still finds it."""

    KEEP = 8

    def __init__(self, runtime: Runtime) -> None:
        self.current = runtime
        self._kept = {runtime.generation: runtime}

    def swap(self, runtime: Runtime) -> None:
        """Make a new runtime current."""
        self._kept.pop(runtime.generation, None)
        self._kept[runtime.generation] = self.current = runtime
        while len(self._kept) > self.KEEP:
            self._kept.pop(next(iter(self._kept)))

    def of(self, generation: str) -> Runtime:
        """The runtime a decision was made under, or the current one."""
        return self._kept.get(generation, self.current)


class Watched(Protocol):
    """What the performer needs of a stream."""

    last: float
    pings: int

    @property
    def stage(self) -> object: ...
    @property
    def rid(self) -> str: ...
    @property
    def trace(self) -> str: ...
    def hear(self, event: ev.Event) -> None:
        """Give the stage an event that no message caused."""
        ...


class Performer:
    """One per worker."""

    def __init__(self, runtimes: Runtimes, ledger: Treasury, tracing: Tracing, treasurer: Treasurer,
                 keys: KeyCache, board: Board, mirrors: Mirrors, spool: Spool | None = None) -> None:
        self.runtimes, self._ledger, self._tracing, self._treasurer = runtimes, ledger, tracing, treasurer
        self._keys, self.board = keys, board
        self.cashier = Cashier(ledger, spool, new_id=lambda: bytes.fromhex(new_id()), on_ended=_tell,
                               clock=lambda: time.time_ns() // 1_000_000)
        self._beginning: set[tuple[str, int]] = set()  # attempts whose begin has no answer yet
        self._streams: set[Watched] = set()
        self._do: dict[type, Callable[..., None]] = {
            ev.Reserve: self._reserve, ev.Begin: self._begin, ev.End: self._end, ev.Finish: self._finish,
            ev.Count: self._count, ev.Identify: self._identify,
            ev.Recall: board.recall, ev.Rate: board.rate, ev.Learn: board.learn, ev.Mirror: mirrors.send,
        }

    def watch(self, stream: Watched) -> None:
        """Keep an eye on a stream until it is over."""
        self._streams.add(stream)

    def forget(self, stream: Watched) -> None:
        """The stream is over."""
        self._streams.discard(stream)
        self.board.left(stream)

    def perform(self, action: ev.Action, stream: Watched, channel: Channel) -> None:
        """Start what an action asks for; never blocks."""
        if isinstance(action, ev.Warn):
            _log.warning("%s", action.message)
        else:
            self._do[type(action)](action, stream, channel)

    # ------------------------------------------------------------------------------------ the five calls

    def _reserve(self, action: ev.Reserve, stream: Watched, channel: Channel) -> None:
        now = time.time_ns() // 1_000_000
        admission = action.admission
        blob = admission_blob(action, stream.rid)
        self.board.decided(action, stream.rid, self.runtimes.current)

        async def call() -> None:
            rid = bytes.fromhex(stream.rid)
            try:
                if action.plan is not None:
                    reserved = await self._treasurer.reserve(admission.org, rid, blob, action.plan)
                else:
                    reserved = ev.Reserved(await self._ledger.reserve(admission.org, rid, blob))
            except LedgerUnavailable:
                reserved = self._without_store(admission.org, action.plan)
            self._tracing.request(stream.rid, admission, stream.trace, now, time.time_ns() // 1_000_000)
            if reserved.grant is not None and reserved.grant.sweep:
                channel.later(self._sweep(admission.org))
            stream.hear(reserved)

        channel.later(call())

    def _without_store(self, org: str, plan: Plan | None) -> ev.Reserved:
        """The answer to a reservation that the store did not take: where a purse bounds what is dispatched, its own."""
        allowance = _allowance(self.runtimes.current)
        if plan is None or allowance is None:
            return ev.Reserved("unavailable")
        reserved = self.cashier.grant(plan, self._treasurer.offline(org, plan), allowance)
        _log.warning("the store did not answer a reservation; %s", "the request goes on from this worker's purse"
                     if reserved.code == "OK" else "the purse has nothing left for the request")
        return reserved

    def _begin(self, action: ev.Begin, stream: Watched, channel: Channel) -> None:
        carried = _carried(stream)
        self.board.began(stream, action.backend)
        row = rollup_row(carried, action.backend, action.model)
        if not carried.reserved:
            self.cashier.remember(carried, action, row)
            return
        blob, runtime = begin_blob(action), self.runtimes.of(carried.generation)
        allowance, key = _allowance(runtime), (carried.rid, action.attempt)
        self._beginning.add(key)

        async def announce() -> BeginCode | BegunCode:
            org, rid = carried.admission.org, bytes.fromhex(carried.rid)
            if action.need is None:
                return await self._ledger.begin(org, rid, action.attempt, blob)
            return (await self._ledger.begin(org, rid, action.attempt, blob, bound=action.need, row=row)).code

        async def call() -> None:
            code, denies = "unavailable", action.need is not None and runtime.denies
            for pause in () if from_purse(carried) else BEGIN_RETRIES if denies else BEGIN_RETRIES[-1:]:
                try:
                    code = await announce()
                    break
                except LedgerUnavailable:
                    await asyncio.sleep(pause)
            running = key in self._beginning  # else its stream is over: nothing is dispatched any more
            self._beginning.discard(key)
            if code == "unavailable" and (denies or from_purse(carried) or (allowance and action.need)):
                # Dispatched unannounced, what it costs would be lost with this worker: unless a purse has money for it,
                # and its disk a line.
                if denies or not running or not self.cashier.dispatch(carried, action, row, allowance):
                    code = "DENIED"
                    if not from_purse(carried):
                        channel.later(self._withdraw(carried, action))
                elif from_purse(carried):
                    code = "OK"
            elif code == "unavailable" and running:
                self.cashier.remember(carried, action, row)
            stream.hear(ev.Begun(code))

        channel.later(call())

    async def _withdraw(self, carried: ev.Carried, action: ev.Begin) -> None:
        """End an attempt that is not made: the store may have taken its begin although no answer came."""
        await self.cashier.withdraw(carried, action.attempt, withdrawal(carried, action))

    def _end(self, action: ev.End, stream: Watched, channel: Channel) -> None:
        carried = _carried(stream)
        now = time.time_ns() // 1_000_000
        runtime = self.runtimes.of(carried.generation)
        metrics.record(carried, action, listed=f"{action.backend}/{action.model}" in runtime.backends)
        self.board.ended(carried, action, runtime)
        self._tracing.attempt(carried, action, stream.trace, now)
        _access.info("%s", log_line(carried, action))
        if carried.taken is not None and action.attempt == 1:
            used = sum(with_passes(action.tokens, action.terms))
            channel.later(self._treasurer.settle_shared(bytes.fromhex(carried.rid), carried.taken, used))

        self._beginning.discard((carried.rid, action.attempt))
        channel.later(self.cashier.end(carried, action, settlement(carried, action), account(carried, action)))

    def _finish(self, action: ev.Finish, stream: Watched, channel: Channel) -> None:
        org = action.org
        rid = bytes.fromhex(stream.rid)
        tried = stream.stage.tried if isinstance(stream.stage, RequestStage) else ()

        async def call() -> None:
            waits = action.wait
            for pause in END_RETRIES:
                # Where Envoy gave up by itself the last attempts may still be on their way to the store.
                await self.cashier.delivery.rest(pause or (LAST_WORDS if waits else 0.0))
                try:
                    code, attempts = await self._ledger.finish(org, rid)
                except LedgerUnavailable:
                    code, attempts = "", None
                if waits:  # the client does not wait for the store to come back; what is held does
                    waits = False
                    stream.hear(finished(attempts or []))
                if attempts is not None:
                    if action.taken is not None and code == "DONE" and not (attempts or action.attempt):
                        await self._treasurer.give_back(rid, action.taken)  # it was never sent
                    # Else no attempt was made, or the client left it, or what there was is not known any more.
                    if (attempts or code != "DUP") and (action.wait or action.attempt):
                        self._finished(action, tried, attempts)
                    return
                if self.cashier.delivery.ending:
                    return  # what is held is given back when its lease ends

        channel.later(call())

    def _finished(self, action: ev.Finish, tried: tuple[str, ...], attempts: list[bytes]) -> None:
        """No further attempt can come: those that never said a word have failed."""
        runtime = self.runtimes.current
        told: dict[int, tuple[str, bool]] = {}
        for attempt in map(pb.Attempt.FromString, attempts):
            place = tried[attempt.number - 1 : attempt.number]
            told[attempt.number] = (listed(runtime, attempt.backend, attempt.model_used) if attempt.backend else
                                    place[0] if place else "", True)
        if action.attempt:
            told[action.attempt] = (listed(runtime, *action.backend.split("/", 1)), True)
        self.board.finished(tried, told, answered=bool(action.attempt))

    def _identify(self, action: ev.Identify, stream: Watched, channel: Channel) -> None:
        async def call() -> None:
            unavailable = False
            for digest in action.digests:
                try:
                    caller = await self._keys.find(digest)
                except LedgerUnavailable:
                    unavailable = True
                    continue
                if caller is not None:
                    stream.hear(ev.Identified(caller))
                    return
            stream.hear(ev.Identified(None, unavailable))

        channel.later(call())

    def _count(self, action: ev.Count, stream: Watched, channel: Channel) -> None:
        """Count in a thread: the tokenizer lets other Python code run, and a long prompt takes milliseconds."""

        async def call() -> None:
            tokens = await asyncio.to_thread(lambda: counter(action.model).request(action.conversation))
            stream.hear(ev.Counted(tokens))

        channel.later(call())

    # ------------------------------------------------------------------------------------ the clock

    async def run_watch(self) -> None:
        """Tell streams about silence, renew leases, sweep what died; for ever."""
        renew_at, sweep_at = time.monotonic() + LEASE_MS / 3000, time.monotonic() + random.uniform(1, SWEEP_EVERY)  # noqa: S311
        while True:
            await asyncio.sleep(WATCH_EVERY)
            now, pause = time.monotonic(), self.runtimes.current.config.failover.ping_interval
            self._treasurer.remember()
            for stream, stage in [(s, s.stage) for s in self._streams if isinstance(s.stage, AttemptStage)]:
                quiet = now - stream.last
                if stage.streaming and quiet > stage.patience:
                    stream.hear(ev.Silence())
                elif stage.waits and quiet > pause * (stream.pings + 1):
                    stream.pings += 1
                    stream.hear(ev.Idle())
            try:
                if now >= renew_at:
                    renew_at = now + LEASE_MS / 3000
                    await self._renew()
                if now >= sweep_at:
                    sweep_at = now + SWEEP_EVERY * random.uniform(0.7, 1.3)  # noqa: S311
                    for org in await self._ledger.orgs():
                        await self._ledger.sweep(org)
            except LedgerUnavailable:
                _log.warning("the store is not reachable; leases and sweep wait")

    async def _sweep(self, org: str) -> None:
        try:
            await self._ledger.sweep(org)
        except LedgerUnavailable:
            _log.warning("the store is not reachable; the sweep of %s waits", org)

    async def _renew(self) -> None:
        rids: dict[str, set[str]] = {}
        for stream in self._streams:
            # Both stages: a request that waits for Envoy to make its attempt has no attempt yet.
            if isinstance(stream.stage, AttemptStage | RequestStage) and (carried := stream.stage.carried) is not None:
                rids.setdefault(carried.admission.org, set()).add(carried.rid)
        for org, ids in rids.items():
            await self._ledger.renew(org, [bytes.fromhex(rid) for rid in ids])


def _allowance(runtime: Runtime) -> Allowance | None:
    """What may be dispatched without the store; None: there is no purse."""
    allow = runtime.config.money.allow
    return None if allow is None else Allowance(round(allow.usd * 10**9), allow.requests, int(allow.for_ * 1000))


def _carried(stream: Watched) -> ev.Carried:
    assert isinstance(stream.stage, AttemptStage) and stream.stage.carried is not None
    return stream.stage.carried


def tell_crossed(org: str, crossed: tuple[Crossing, ...]) -> None:
    """Say once that a budget crossed a soft limit."""
    for crossing in crossed:
        _log.warning("budget %s of %s has reached %d %%", crossing.budget, org, crossing.percent)


def _tell(org: str, ended: Ended) -> None:
    """Say once that a budget crossed a soft limit, or that a provider billed more than could be funded."""
    tell_crossed(org, ended.crossed)
    if ended.unfunded_nano_usd:
        _log.error("%d n$ of %s are not covered by any budget", ended.unfunded_nano_usd, org)
