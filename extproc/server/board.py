"""What the workers learn from traffic, each by itself and all together: health, speed, outcomes, the day's dollars.

A worker counts at once for itself and exchanges counts with the others about every second. None of it is money: what
the store does not take in time is sent with the next exchange.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial

import msgspec

from extproc.core import events as ev
from extproc.core import feedback
from extproc.core.pricing import NANO
from extproc.core.routing import busy, endings, health, outcomes, pace, sessions
from extproc.core.routing.explanation import Whose, pack
from extproc.core.routing.flow import Decision
from extproc.core.routing.view import Knowledge, View
from extproc.ledger.answers import Answered
from extproc.ledger.base import LedgerUnavailable
from extproc.runtime import ANY, Backend, Runtime
from extproc.server.breaks import broken_by
from extproc.server.seam import Channel, Heard
from extproc.server.stores import Stores
from extproc.telemetry import decisions

_log = logging.getLogger("extproc")
EXCHANGE_EVERY = 1.0
LEARNED_EVERY_MS = 30_000
DAY_MS = 86_400_000
RATED_KEEP_MS = 7 * DAY_MS
MOST_DOUBTS = 2
"""Errors of a backend in a row that may be their requests' fault."""
MOST_PENDING = 50_000
"""Counts that wait for a store that is away; further ones are dropped, and said to be."""


class Board:
    """One per worker."""

    def __init__(self, runtime: Runtime, stores: Stores, workers: int = 1) -> None:
        """`workers`: how many share the store."""
        self.knowledge = Knowledge(runtime.config.learning, workers)
        self._stores = stores
        self._runtime, self._view = runtime, self._viewed(runtime)
        self._pending: dict[tuple[str, int, int], Counter[str]] = {}
        self._at_work: dict[object, str] = {}
        self._read_at: dict[str, int] = {}
        self._doubts: dict[str, list[ev.Learn]] = {}
        self._dropped = 0

    def _viewed(self, runtime: Runtime) -> View:
        return View(runtime.config.routing, self.knowledge, explore=runtime.config.learning.explore)

    def view(self, runtime: Runtime) -> View:
        """What routing may know, under a configuration; what the aims remember stays while they stay the same."""
        routing, learning = runtime.config.routing, runtime.config.learning
        if self._view.routing is not routing:
            if self._view.routing != routing or self._view.explore != learning.explore:
                self._view = self._viewed(runtime)
            self.knowledge.configure(learning)
            self._runtime = runtime
            self._view.routing = routing
        return self._view

    # ------------------------------------------------------------------------------------ what stages ask

    def recall(self, action: ev.Recall, stream: Heard, channel: Channel) -> None:
        """Look a session up; a store that is away remembers nothing."""

        async def call() -> None:
            try:
                memory = await self._stores.sessions.get(action.org, action.session)
            except LedgerUnavailable:
                memory = None
            stream.hear(ev.Recalled(memory))

        channel.later(call())

    def rate(self, action: ev.Rate, stream: Heard, channel: Channel) -> None:
        """Take a client's word on an answer of its own, once."""

        async def call() -> None:
            rid, answers = action.feedback.request_id, self._stores.answers
            try:
                found = await answers.get(rid)
                known = found is not None and feedback.owns(Whose(found.org, found.team, found.key), action.caller)
                if found is not None and known and await answers.once(rid, RATED_KEEP_MS):
                    self._rated(found, feedback.learnable(action.feedback))
            except LedgerUnavailable:
                stream.hear(ev.Rated(False, unavailable=True))
                return
            stream.hear(ev.Rated(known))

        channel.later(call())

    def _rated(self, found: Answered, outcome: outcomes.Learnable | None) -> None:
        if outcome is not None and found.cell:
            self._learn(found.org, found.key, found.cell, found.backend, found.prior / 1000, outcome)

    def learn(self, action: ev.Learn, _stream: Heard, _channel: Channel) -> None:
        """Count what a stage has seen."""
        self._learn_of(action)

    def _learn_of(self, seen: ev.Learn) -> None:
        self._learn(seen.org, seen.key, seen.cell, seen.backend, seen.prior, seen.outcome)

    def _cleared(self, backend: str) -> None:
        """It answers again: a few errors before were those of their requests; of more in a row it was away, which says
        nothing of how well it does a task."""
        doubts = self._doubts.pop(backend, [])
        if len(doubts) <= MOST_DOUBTS:
            for lesson in doubts:
                self._learn_of(lesson)

    def _learn(self, org: str, key: str, cell: str, backend: str, prior: float, outcome: outcomes.Learnable) -> None:
        learned, day = self.knowledge.learned(org), _now() // DAY_MS
        counts = learned.note(cell, backend, outcome.success, outcome.weight, day, prior=prior, key=key)
        self._add(f"learned:{org}", day, counts, (learned.days + 1) * DAY_MS)

    # ------------------------------------------------------------------------------------ what happens to requests

    def decided(self, action: ev.Reserve, rid: str, runtime: Runtime) -> None:
        """A request was decided: keep why, and count it for the day's dollars."""
        who = action.admission
        decisions.decided(who.route, who.reason, listed=who.route in runtime.chains)
        keep = round(runtime.config.explain.keep * 1000)
        if action.decision is not None and keep:
            self._stores.explained.put(rid, partial(_told, action.decision, rid, action.admission), keep)
        if action.counts:
            self._add(f"pace:{who.org}", pace.Pace.bucket(_now()), action.counts, pace.KEEP_MS)

    def began(self, stream: object, name: str) -> None:
        """An attempt is at this backend."""
        self.left(stream)
        self._at_work[stream] = name
        self.knowledge.busy.begin(name)

    def left(self, stream: object) -> None:
        """Its stream is over."""
        if (name := self._at_work.pop(stream, None)) is not None:
            self.knowledge.busy.end(name)

    def ended(self, carried: ev.Carried, end: ev.End, runtime: Runtime) -> None:
        """An attempt was settled: what it tells of its backend."""
        now, backend = _now(), listed(runtime, end.backend, end.model)
        config = runtime.config.failover
        deadline = config.first_event_timeout if carried.stream and carried.backends > 1 else config.answer_timeout
        outcome = endings.outcome_of(end, backend, round(deadline * 1000), stream=carried.stream,
                                     retry_after_ms=end.retry_after_ms)
        self.knowledge.health.note(outcome, now)
        if outcome.kind == "ok":
            self._cleared(backend)
        judged, answered = carried.judged, end.problem is None and outcome.kind == "ok"
        if judged is None:
            if answered:
                self._note_answer(carried, "", backend, 0, runtime)
            return
        served = runtime.backends.get(backend)
        if judged.complex and (paced := self._view.paces().get(carried.admission.org)) is not None:
            self._add(f"pace:{carried.admission.org}", pace.Pace.bucket(now), paced.paid(now, end.cost), pace.KEEP_MS)
        prior = judged.promised.get(backend, 500) / 1000
        learnt = outcomes.outcome_of(end, outcomes.Facts(
            judged.limit, bool(carried.granted and (judged.limit or 0) > carried.granted), end.flaws, judged.cuts))
        if learnt is not None and judged.counts and (
                end.attempt == 1 or not learnt.success):  # a later one was nobody's choice
            who = carried.admission
            lesson = ev.Learn(who.org, who.key, judged.cell, backend, prior, learnt)
            if learnt.kind == "error":
                self._doubts.setdefault(backend, [])[MOST_DOUBTS:] = [lesson]
            else:
                self._learn_of(lesson)
        if answered:
            failed = learnt is not None and not learnt.success
            self._answered(carried, judged, end, served, prior, runtime, failed=failed)

    def _answered(self, carried: ev.Carried, judged: ev.Judged, end: ev.End, served: Backend | None, prior: float,
                  runtime: Runtime, *, failed: bool) -> None:
        """The client has its answer: remember whose it was, for its session and for its word on it."""
        who, now, backend = carried.admission, _now(), f"{end.backend}/{end.model}"
        if end.final:
            self.knowledge.habits.note(judged.task, backend, end.tokens.total_output,
                                       end.first_event_ms if carried.stream else None, end.duration_ms)
        smart = runtime.config.routing.smart
        cell = judged.cell if backend in judged.promised else ""  # of others only health is told
        self._note_answer(carried, cell, backend, round(prior * 1000), runtime)
        if judged.session and served is not None and smart.sessions.sticky:
            memory = sessions.settle(
                judged.memory, backend=backend, chain=who.route, model=end.model, dialect=served.dialect,
                tokens=end.tokens, now=now, complex_chain=smart.complex if judged.escalates else "",
                signature=judged.signature, cell=judged.cell if judged.counts else "")
            memory = msgspec.structs.replace(memory, asked=judged.turns, prior=round(prior * 1000), settled=failed)
            self._remember(who.org, judged.session, memory, round(smart.sessions.keep * 1000))

    def _note_answer(self, carried: ev.Carried, cell: str, backend: str, prior: int, runtime: Runtime) -> None:
        """Keep who answered, for the client's word on it; without a cell nothing can be learnt from that."""
        if keep := round(runtime.config.explain.keep * 1000):
            who = carried.admission
            self._stores.answers.put(carried.rid, Answered(who.org, who.team, who.key, cell, backend, prior), keep)

    def _remember(self, org: str, session: str, memory: sessions.Memory, keep_ms: int) -> None:
        """Send it with this tick; nobody waits."""
        task = asyncio.ensure_future(self._stores.sessions.put(org, session, memory, keep_ms))
        task.add_done_callback(_taken)

    def finished(self, stage_tried: tuple[str, ...], told: dict[int, tuple[str, bool]], *, answered: bool) -> None:
        """A request is over: backends that failed without a word count as failed too."""
        now = _now()
        for backend in endings.silent(stage_tried, told, answered=answered):
            self.knowledge.health.note(
                endings.Outcome(backend, backend.partition("/")[0], "broken"), now)

    def broke(self, message: bytes) -> None:
        """Envoy tells of answers that providers broke off after their headers."""
        for name, model in broken_by(message):
            if name in self._runtime.config.backends:
                backend = listed(self._runtime, name, model)
                self.knowledge.health.note(endings.Outcome(backend, name, "broken"), _now())

    # ------------------------------------------------------------------------------------ the exchange

    def _add(self, scope: str, bucket: int, counts: Mapping[str, int], keep_ms: int) -> None:
        if not counts:
            return
        place = (scope, bucket, keep_ms)
        if place not in self._pending and len(self._pending) >= MOST_PENDING:
            if not self._dropped:
                _log.warning("%d counts wait for the store; further ones are dropped", MOST_PENDING)
            self._dropped += 1
            return
        self._pending.setdefault(place, Counter()).update(counts)

    async def run(self) -> None:
        """Exchange counts with the other workers, for ever."""
        away = False
        while True:
            await asyncio.sleep(EXCHANGE_EVERY)
            try:
                await self.exchange(_now())
                away = False
                if self._dropped:
                    _log.warning("%d counts were dropped while the store was away", self._dropped)
                    self._dropped = 0
            except LedgerUnavailable:
                if not away:
                    _log.warning("the store is not reachable; this worker goes by what it sees itself")
                away = True

    async def exchange(self, now: int) -> None:
        """Send what was counted, and take what the others have. Raises LedgerUnavailable; nothing is lost then."""
        await self._send()
        await self._health(now)
        await self._busy(now)
        await self._learned(now)
        await self._paces(now)

    async def _send(self) -> None:
        while self._pending:
            place = next(iter(self._pending))
            scope, bucket, keep = place
            counts = self._pending.pop(place)
            try:
                await self._stores.tallies.add(scope, bucket, counts, keep)
            except LedgerUnavailable:
                self._pending.setdefault(place, Counter()).update(counts)
                raise
        self._dropped = 0

    async def _health(self, now: int) -> None:
        book, tallies = self.knowledge.health, self._stores.tallies
        try:
            for bucket, counts in book.take().items():
                await tallies.add("health", bucket, counts, health.KEEP_MS)
        except LedgerUnavailable:
            book.untake()
            raise
        try:
            if cooled := book.cooled(now):
                await tallies.put("health", cooled, health.KEEP_MS)
            wanted = book.wanted(now)
            read, told = await asyncio.gather(tallies.read("health", wanted), tallies.got("health"))
        except LedgerUnavailable:
            book.load({}, None, now)
            raise
        book.load(dict(zip(wanted, read, strict=True)), told, now)
        for backend in self._runtime.backends:
            decisions.state(backend, book.state(backend, now)[0])

    async def _busy(self, now: int) -> None:
        gauge, tallies = self.knowledge.busy, self._stores.tallies
        if (report := gauge.report(now)) is not None and report[1]:
            await tallies.add("busy", report[0], report[1], busy.KEEP_MS)
        window = gauge.wanted(now)
        gauge.load(window, (await tallies.read("busy", [window]))[0])

    async def _learned(self, now: int) -> None:
        today = now // DAY_MS
        for org in self.knowledge.orgs():
            if now - self._read_at.get(org, 0) < LEARNED_EVERY_MS:
                continue
            self._read_at[org] = now
            learned = self.knowledge.learned(org)
            days = learned.wanted(today)
            read = await self._stores.tallies.read(f"learned:{org}", days)
            learned.load(dict(zip(days, read, strict=True)), today)

    async def _paces(self, now: int) -> None:
        for org, paced in self._view.paces().items():
            hours = paced.wanted(now)
            read = await self._stores.tallies.read(f"pace:{org}", hours)
            paced.load(dict(zip(hours, read, strict=True)), now)
            decisions.spent(org, paced.spent(now) / NANO)


def listed(runtime: Runtime, name: str, model: str) -> str:
    """The id under which a backend is counted: models that no chain lists count as one."""
    backend = f"{name}/{model}"
    return backend if backend in runtime.backends else f"{name}/{ANY}"


def _told(decision: Decision, rid: str, who: ev.Admission) -> bytes:
    """The explanation of a decision as it is kept."""
    return pack(msgspec.structs.replace(
        decision.explanation, request_id=rid, identity=Whose(who.org, who.team, who.key)))


def _taken(task: asyncio.Future[None]) -> None:
    """A session that the store did not take is one that starts anew: no more than a prompt cache is lost."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, LedgerUnavailable):
        _log.error("a session could not be remembered", exc_info=error)


def _now() -> int:
    return time.time_ns() // 1_000_000
