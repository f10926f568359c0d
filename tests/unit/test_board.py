"""What workers learn alone and together: the exchange, sessions, answers and feedback, with stores that come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from extproc.config.learning import LearningConfig
from extproc.core import events as ev
from extproc.core.errors import Problem
from extproc.core.feedback import Feedback
from extproc.core.identity import Caller
from extproc.core.routing.explanation import Whose, unpack
from extproc.core.routing.outcomes import Learnable
from extproc.core.routing.sessions import Memory
from extproc.core.routing.view import READS, Knowledge
from extproc.core.usage import Tokens
from extproc.ledger.answers import Answered, Answers
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.memory_sessions import MemorySessions
from extproc.ledger.memory_tallies import MemoryTallies
from extproc.server import board as boards
from extproc.server.board import Board, listed
from extproc.server.stores import Stores, in_memory
from tests.routing_kit import choose, compiled
from tests.stage_kit import NOW, RID, carried

CELL = "debug.s.n"
JUDGED = ev.Judged(cell=CELL, task="debug", promised={"near/n": 700, "big/b": 900})
OK = ev.End(1, "near", "n", "exact", True, Tokens(input=900, output=50), 0, 200, 400, 90, finish_reason="end")
FLAWED = msgspec.structs.replace(OK, flaws=("tool_call",))
WRONG = msgspec.structs.replace(
    OK, outcome="failed", status=500, finish_reason="", problem=Problem("upstream", "broken", status=500))
LEARNING = "learning: {enabled: true}"
WHO = ev.Admission(org="acme", team="web", project="", user="", key="ci", route="local", reason="r", model="auto",
                   schema="openai", stream=True)
CI = Caller("acme", "web", "", "", "ci")
DAY = 86_400_000


def now() -> int:
    return time.time_ns() // 1_000_000


def request(judged: ev.Judged | None = JUDGED, **fields: Any) -> ev.Carried:
    return carried(admission=WHO, judged=judged, backends=2, **fields)


class Ear:
    """A stream and its channel in one: what was heard, what still runs."""

    def __init__(self) -> None:
        self.heard: list[ev.Event] = []
        self.work: list[asyncio.Task[None]] = []

    def hear(self, event: ev.Event) -> None:
        self.heard.append(event)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        self.work.append(asyncio.ensure_future(work))

    def reply(self, answers: list[bytes]) -> None:
        raise AssertionError

    async def all(self) -> list[ev.Event]:
        await asyncio.gather(*self.work)
        return self.heard


class Away(MemoryTallies):
    """Counters of a store that is away while `away` says so: for all calls, or for one kind of them."""

    def __init__(self) -> None:
        super().__init__()
        self.away: Callable[[str, str], bool] = lambda _what, _scope: False

    def _try(self, what: str, scope: str) -> None:
        if self.away(what, scope):
            raise LedgerUnavailable("away")

    async def add(self, scope: str, bucket: int, counts: Mapping[str, int], keep_ms: int) -> None:
        self._try("add", scope)
        await super().add(scope, bucket, counts, keep_ms)

    async def put(self, scope: str, values: Mapping[str, int], keep_ms: int) -> None:
        self._try("put", scope)
        await super().put(scope, values, keep_ms)

    async def read(self, scope: str, buckets: Sequence[int]) -> list[dict[str, int]]:
        self._try("read", scope)
        return await super().read(scope, buckets)

    async def got(self, scope: str) -> dict[str, int]:
        self._try("got", scope)
        return await super().got(scope)


def two(extra: str = LEARNING, tallies: MemoryTallies | None = None) -> tuple[Board, Board, Stores]:
    """Two workers at one store."""
    stores = in_memory()
    stores = stores if tallies is None else stores._replace(tallies=tallies)
    runtime = compiled(extra)
    return Board(runtime, stores, 2), Board(runtime, stores, 2), stores


async def both(*workers: Board, at: int | None = None) -> None:
    for worker in workers:
        await worker.exchange(now() if at is None else at)


class TestExchange:
    """What one has seen the others know after an exchange."""

    async def test_health(self) -> None:
        """Failures at one open the backend at the other."""
        one, other, _ = two()
        for _ in range(5):
            one.ended(request(), WRONG, compiled())
        assert one.knowledge.health.state("near/n", now())[0] == "open"
        assert other.knowledge.health.state("near/n", now())[0] == "up"
        await both(one, other)
        assert other.knowledge.health.state("near/n", now())[0] == "open"
        assert choose(model="local", view=other.view(compiled()), now=now()).chain.backends[0].id == "box/x"

    async def test_retry_after(self) -> None:
        """A provider's retry-after holds for all."""
        one, other, _ = two()
        limited = msgspec.structs.replace(
            WRONG, status=429, problem=Problem("rate_limit", "slow down", retry_after=30, status=429))
        one.ended(request(), limited, compiled())
        await both(one, other)
        state, why = other.knowledge.health.state("near/n", now())
        assert (state, why[:12]) == ("cooling", "cooling, 429")

    async def test_silent_failures(self) -> None:
        """Backends that refused a connection failed, without a word of their own."""
        one, other, _ = two()
        for _ in range(5):
            one.finished(("near/n", "box/x"), {2: ("box/x", True)}, answered=True)
        await both(one, other)
        assert other.knowledge.health.down(now()) == {"near/n"}

    async def test_learned(self) -> None:
        """Outcomes at one move the belief of the other, of that organisation alone."""
        one, other, _ = two()
        other.knowledge.learned("acme")
        for _ in range(10):
            one.ended(request(), FLAWED, compiled())
        own = one.knowledge.learned("acme").chance(CELL, "near/n", 0.7).mean
        assert own < 0.5
        await both(one, other)
        assert other.knowledge.learned("acme").chance(CELL, "near/n", 0.7).mean == own
        assert other.knowledge.learned("other").chance(CELL, "near/n", 0.7).mean == 0.7

    async def test_learned_is_read_now_and_then(self) -> None:
        """What others learn is read every half minute, and right away when an organisation is new."""
        one, other, _ = two()
        moment = now()
        other.knowledge.learned("acme")
        await both(one, other, at=moment)
        one.ended(request(), FLAWED, compiled())
        await both(one, other, at=moment + 5_000)
        assert other.knowledge.learned("acme").chance(CELL, "near/n", 0.7).mean == 0.7
        await both(one, other, at=moment + boards.LEARNED_EVERY_MS)
        assert other.knowledge.learned("acme").chance(CELL, "near/n", 0.7).mean < 0.7

    async def test_busy(self) -> None:
        """Requests under way count for all after a window."""
        one, other, _ = two()
        streams = [object() for _ in range(3)]
        for stream in streams:
            one.began(stream, "near")
        one.began(streams[0], "big")
        moment = now() // 2000 * 2000
        await both(one, other, at=moment)
        await both(one, other, at=moment + 2000)
        assert other.knowledge.busy.total() == {"near": 2, "big": 1}
        for stream in streams:
            one.left(stream)
            one.left(stream)
        assert one.knowledge.busy.total() == {}

    async def test_pace(self) -> None:
        """Dollars that one spends the other has no more: what was decided and what answers cost."""
        extra = "routing: {smart: {aim: {usd_per_day: 1}}}"
        one, other, _ = two(extra)
        runtime = compiled(extra)
        for worker in (one, other):
            worker.view(runtime).aim("acme")
        paid = msgspec.structs.replace(OK, backend="big", model="b", cost=600_000_000)
        one.decided(ev.Reserve(WHO, counts={"asked": 1, "sent": 1}), RID, runtime)
        one.ended(request(msgspec.structs.replace(JUDGED, complex=True)), paid, runtime)
        await both(one, other)
        pace = other.view(runtime).paces()["acme"]
        assert pace.known
        assert pace.spent(now()) == 600_000_000
        assert one.view(runtime).paces()["acme"].spent(now()) == 600_000_000

    async def test_only_the_complex_side_costs_the_day(self) -> None:
        """What answers of the simple side cost is not counted."""
        extra = "routing: {smart: {aim: {usd_per_day: 1}}}"
        one, _, _ = two(extra)
        one.view(compiled(extra)).aim("acme")
        one.ended(request(), msgspec.structs.replace(OK, cost=600_000_000), compiled(extra))
        await both(one)
        assert one.view(compiled(extra)).paces()["acme"].spent(now()) == 0


class TestStoreAway:
    """A store that does not answer costs nothing but the sight of the others."""

    @pytest.mark.parametrize("what", ["add", "put", "read", "got", ""])
    @pytest.mark.parametrize("scope", ["health", "learned:acme", "busy", ""])
    async def test_nothing_lost(self, what: str, scope: str) -> None:
        """Whatever call fails, what was counted arrives, once, when the store is back."""
        tallies = Away()
        one, other, _ = two(tallies=tallies)
        other.knowledge.learned("acme")
        tallies.away = lambda w, s: what in ("", w) and scope in ("", s)
        for _ in range(5):
            one.ended(request(), WRONG, compiled())
            one.learn(ev.Learn("acme", "ci", CELL, "near/n", 0.7, Learnable(False, 2, "repeated")), Ear(), Ear())
        for _ in range(3):
            try:
                await both(one)
            except LedgerUnavailable:
                continue
        assert one.knowledge.health.state("near/n", now())[0] == "open"
        tallies.away = lambda _w, _s: False
        await both(one, other)
        assert other.knowledge.health.state("near/n", now())[0] == "open"
        [read] = await tallies.read("health", [now() // 10_000])
        before = (await tallies.read("health", [now() // 10_000 - 1]))[0]
        assert read.get("near/n|failed", 0) + before.get("near/n|failed", 0) == 5
        [learned] = await tallies.read("learned:acme", [now() // DAY])
        assert learned[f"{CELL} bad near/n"] == 10

    async def test_it_goes_on(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        """The exchange goes on for ever, and says once that the store is away, each time it goes."""
        monkeypatch.setattr(boards, "EXCHANGE_EVERY", 0.002)
        tallies = Away()
        one, _, _ = two(tallies=tallies)
        task = asyncio.create_task(one.run())
        for _ in range(2):
            tallies.away = lambda _w, _s: True
            await asyncio.sleep(0.05)
            tallies.away = lambda _w, _s: False
            await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        assert [r.message for r in caplog.records] == 2 * [
            "the store is not reachable; this worker goes by what it sees itself"]

    async def test_bounded(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        """What waits is bounded, which is said once; what has a place already is still counted."""
        monkeypatch.setattr(boards, "MOST_PENDING", 3)
        tallies = Away()
        one, _, stores = two("routing: {smart: {aim: {usd_per_day: 1}}}", tallies)
        runtime = compiled()
        for org in range(6):
            who = msgspec.structs.replace(WHO, org=f"o{org}")
            for _ in range(2):
                one.decided(ev.Reserve(who, counts={"asked": 1}), RID, runtime)
        assert [r.message for r in caplog.records] == ["3 counts wait for the store; further ones are dropped"]
        await both(one)
        hour = now() // 3_600_000
        assert [await stores.tallies.read(f"pace:o{org}", [hour]) for org in range(6)] == [
            *3 * [[{"asked": 2}]], *3 * [[{}]]]
        one.decided(ev.Reserve(WHO, counts={"asked": 1}), RID, runtime)
        await both(one)
        assert await stores.tallies.read("pace:acme", [hour]) == [{"asked": 1}]

    async def test_a_session_is_not_remembered(self) -> None:
        """A session store that is away remembers nothing, and hurts nobody."""
        class Gone(MemorySessions):
            async def get(self, org: str, session: str) -> Memory | None:
                raise LedgerUnavailable("away")

            async def put(self, org: str, session: str, memory: Memory, keep_ms: int) -> None:
                raise LedgerUnavailable("away")

        board, ear = Board(compiled(), in_memory()._replace(sessions=Gone())), Ear()
        board.ended(request(msgspec.structs.replace(JUDGED, session="s")), OK, compiled())
        board.recall(ev.Recall("acme", "s"), ear, ear)
        assert await ear.all() == [ev.Recalled(None)]

    async def test_feedback_is_refused(self) -> None:
        """A word that cannot be looked up is told to be sent again."""
        class Gone(Answers):
            def put(self, rid: str, answered: Answered, keep_ms: int) -> None:
                raise AssertionError

            async def get(self, rid: str) -> Answered | None:
                raise LedgerUnavailable("away")

            async def once(self, rid: str, keep_ms: int) -> bool:
                raise AssertionError

        board, ear = Board(compiled(), in_memory()._replace(answers=Gone())), Ear()
        board.rate(ev.Rate(Feedback(RID, 1.0), CI), ear, ear)
        assert await ear.all() == [ev.Rated(False, unavailable=True)]


class TestSessions:
    """What is remembered of a conversation after its answer."""

    SESSION = msgspec.structs.replace(JUDGED, session="s1", signature=77, turns=3)

    async def after(self, judged: ev.Judged, end: ev.End, extra: str = "", route: str = "local") -> Memory | None:
        runtime, stores = compiled(extra), in_memory()
        board = Board(runtime, stores)
        board.ended(carried(admission=msgspec.structs.replace(WHO, route=route), judged=judged), end, runtime)
        await asyncio.sleep(0)
        ear = Ear()
        board.recall(ev.Recall("acme", "s1"), ear, ear)
        [heard] = await ear.all()
        assert isinstance(heard, ev.Recalled)
        return heard.memory

    async def test_remembered(self) -> None:
        """Who answered, what is warm, what was asked and promised; found by any worker of that organisation."""
        memory = await self.after(self.SESSION, OK)
        assert memory is not None
        assert (memory.backend, memory.model, memory.chain, memory.escalated, memory.turns) == (
            "near/n", "n", "local", False, 1)
        assert (memory.signature, memory.cell, memory.asked, memory.prior, memory.settled) == (77, CELL, 3, 700, False)

    async def test_escalated(self) -> None:
        """An answer of the complex chain escalates for good."""
        end = msgspec.structs.replace(OK, backend="big", model="b")
        first = await self.after(self.SESSION, end, route="cloud")
        assert first is not None and first.escalated and first.backend == "big/b"
        later = await self.after(msgspec.structs.replace(self.SESSION, memory=first), OK)
        assert later is not None and later.escalated and (later.chain, later.turns) == ("local", 2)

    async def test_not_escalated(self) -> None:
        """One of a class, or of an outage, does not."""
        end = msgspec.structs.replace(OK, backend="big", model="b")
        memory = await self.after(msgspec.structs.replace(self.SESSION, escalates=False, counts=False), end, route="cloud")
        assert memory is not None
        assert (memory.chain, memory.backend, memory.escalated, memory.cell) == ("cloud", "big/b", False, "")

    async def test_without_usage(self) -> None:
        """A whole answer of a server that reports no usage is remembered like any other."""
        end = msgspec.structs.replace(OK, outcome="estimated", final=False, first_event_ms=5, finish_reason="end")
        memory = await self.after(self.SESSION, end)
        assert memory is not None and memory.backend == "near/n"

    async def test_a_flawed_answer(self) -> None:
        """A failure that was seen is remembered, so that a complaint does not count it again."""
        memory = await self.after(self.SESSION, msgspec.structs.replace(OK, flaws=("tool_call",)))
        assert memory is not None and memory.settled

    @pytest.mark.parametrize(("judged", "end", "extra"), [
        (SESSION, WRONG, ""), (JUDGED, OK, ""),
        (SESSION, msgspec.structs.replace(OK, final=False, outcome="estimated", finish_reason=""), ""),
        (SESSION, OK, "routing: {smart: {sessions: {sticky: false}}}"),
        (SESSION, msgspec.structs.replace(OK, backend="gone", model="x"), ""),
    ])
    async def test_not_remembered(self, judged: ev.Judged, end: ev.End, extra: str) -> None:
        """No session, no answer, no stickiness, no such backend any more: nothing to remember."""
        assert await self.after(judged, end, extra) is None


class TestAnswers:
    """A client's word on an answer."""

    @staticmethod
    async def say(board: Board, caller: Caller = CI, rating: float = 0.0, rid: str = RID) -> ev.Event:
        ear = Ear()
        board.rate(ev.Rate(Feedback(rid, rating), caller), ear, ear)
        [heard] = await ear.all()
        return heard

    def bad(self, board: Board) -> float:
        return board.knowledge.learned("acme").evidence(CELL, "near/n").all

    async def test_once(self) -> None:
        """It counts five, once, also where a second worker hears it again."""
        one, other, _ = two()
        one.ended(request(), OK, compiled())
        assert self.bad(one) == 1
        assert await self.say(other) == ev.Rated(True)
        assert self.bad(other) == 5
        for board in (one, other):
            assert await self.say(board, rating=1.0) == ev.Rated(True)
        assert (self.bad(one), self.bad(other)) == (1, 5)

    async def test_of_a_pinned_request(self) -> None:
        """Its answer is not counted as it looks; what its client says of it is, where something was promised of who gave
        it."""
        for promised, bad in (({"near/n": 700}, 5), ({"big/b": 900}, 0)):
            one, _, _ = two()
            one.ended(request(msgspec.structs.replace(JUDGED, counts=False, promised=promised)), OK, compiled())
            assert self.bad(one) == 0
            assert await self.say(one) == ev.Rated(True)
            assert self.bad(one) == bad

    @pytest.mark.parametrize("caller", [
        msgspec.structs.replace(CI, org="x"), msgspec.structs.replace(CI, team="x"), msgspec.structs.replace(CI, key="x"),
        Caller(),
    ])
    async def test_only_of_the_owner(self, caller: Caller) -> None:
        """Somebody else's word counts nothing, is answered as that on an unknown request, and does not use it up."""
        one, _, _ = two()
        one.ended(request(), OK, compiled())
        assert await self.say(one, caller) == await self.say(one, rid="0" * 32) == ev.Rated(False)
        assert self.bad(one) == 1
        assert await self.say(one) == ev.Rated(True)
        assert self.bad(one) == 6

    async def test_slow(self) -> None:
        """A word that counts nothing is taken."""
        one, _, _ = two()
        one.ended(request(), OK, compiled())
        assert await self.say(one, rating=0.5) == ev.Rated(True)
        assert self.bad(one) == 1

    async def test_not_kept(self) -> None:
        """Without explanations there is nothing to speak of."""
        extra = LEARNING + "\nexplain: {keep: 0s}"
        board = Board(compiled(extra), in_memory())
        board.ended(request(), OK, compiled(extra))
        board.decided(ev.Reserve(WHO, decision=choose()), RID, compiled(extra))
        assert await self.say(board) == ev.Rated(False)
        assert await board._stores.explained.get(RID) is None

    async def test_learning_is_off(self) -> None:
        """Where nothing is learnt a word is taken and counts nothing."""
        board = Board(compiled("learning: off"), in_memory())
        board.ended(request(), OK, compiled("learning: off"))
        assert await self.say(board) == ev.Rated(True)
        assert self.bad(board) == 0


class TestAttempts:
    """What an attempt's end tells."""

    async def test_learn(self) -> None:
        """What a stage has seen is counted."""
        board, ear = Board(compiled(LEARNING), in_memory()), Ear()
        facts = ev.Learn("acme", "ci", CELL, "near/n", 0.7, Learnable(False, 3, "complaint"))
        board.learn(facts, ear, ear)
        assert board.knowledge.learned("acme").evidence(CELL, "near/n").all == 3

    @pytest.mark.parametrize(("errors", "bad"), [(1, 2), (2, 4), (3, 0), (9, 0)])
    async def test_errors(self, errors: int, bad: int) -> None:
        """A few errors are their requests' fault and count once the backend answers again; of more in a row it was away,
        which says nothing of how well it does a task."""
        board = Board(compiled(LEARNING), in_memory())
        learned = board.knowledge.learned("acme")
        for _ in range(errors):
            board.ended(request(), WRONG, compiled())
        assert learned.evidence(CELL, "near/n").all == 0
        board.ended(request(None), OK, compiled())
        assert learned.evidence(CELL, "near/n").all == bad
        board.ended(request(None), OK, compiled())
        assert learned.evidence(CELL, "near/n").all == bad

    async def test_a_later_attempt(self) -> None:
        """A good answer of a backend that nobody chose teaches nothing, a flawed one does."""
        board = Board(compiled(LEARNING), in_memory())
        learned = board.knowledge.learned("acme")
        board.ended(request(), msgspec.structs.replace(OK, attempt=2), compiled())
        assert learned.evidence(CELL, "near/n").all == 0
        board.ended(request(), msgspec.structs.replace(FLAWED, attempt=2), compiled())
        assert learned.evidence(CELL, "near/n").all == 3

    async def test_not_judged(self) -> None:
        """Of a request that was not weighed only the health of its backend is learnt."""
        one, _, stores = two()
        for _ in range(5):
            one.ended(request(None), WRONG, compiled())
        assert one.knowledge.health.state("near/n", now())[0] == "open"
        assert one.knowledge.orgs() == []
        assert await stores.answers.get(RID) is None

    async def test_shadow(self) -> None:
        """The answer of a copy is learnt from, and belongs to no session."""
        one, _, stores = two()
        one.ended(request(msgspec.structs.replace(JUDGED, shadow=True)), OK, compiled())
        assert one.knowledge.learned("acme").evidence(CELL, "near/n").good == 1
        assert await stores.sessions.get("acme", "") is None

    def test_listed(self) -> None:
        """Models that no chain lists are counted as one."""
        runtime = compiled()
        assert listed(runtime, "big", "b") == "big/b"
        assert listed(runtime, "big", "whatever a client wrote") == "big/*"

    async def test_deadline(self) -> None:
        """A stream with another backend behind it has the deadline of the first event, all others that of the answer."""
        runtime = compiled("failover: {first_event_timeout: 1s, answer_timeout: 100s}")
        cut = msgspec.structs.replace(OK, outcome="failed", finish_reason="", first_event_ms=None, duration_ms=1000)
        for fields, kind in (({}, "timeout"), ({"stream": False}, "client"), ({"backends": 1}, "client")):
            board = Board(runtime, in_memory())
            made = msgspec.structs.replace(request(None), **fields)  # type: ignore[arg-type]
            for _ in range(5):
                board.ended(made, cut, runtime)
            assert (board.knowledge.health.state("near/n", now())[0] == "open") is (kind == "timeout")

    async def test_habits(self) -> None:
        """Lengths and speeds of whole answers are learnt; of those that were not streamed, only lengths."""
        one, other, _ = two()
        for _ in range(30):
            one.ended(request(), msgspec.structs.replace(OK, duration_ms=1090), compiled())
            other.ended(request(stream=False), OK, compiled())
        for board in (one, other):
            assert board.knowledge.habits.output("debug") < 300
        assert one.knowledge.habits.latency_ms("near/n", 90, 100) == 90 + 2000
        assert other.knowledge.habits.latency_ms("near/n", 90, 100) is None

    async def test_explained(self) -> None:
        """Why a request was decided is kept under its id."""
        one, _, stores = two()
        one.decided(ev.Reserve(WHO, decision=choose(model="cloud")), RID, compiled())
        kept = unpack(await stores.explained.get(RID) or b"")
        assert kept is not None
        assert (kept.request_id, kept.reason, kept.identity) == (
            RID, "pinned by model cloud", Whose("acme", "web", "ci"))


class TestView:
    """What outlives a reload."""

    async def test_kept(self) -> None:
        """The same routing keeps what aims remember, also when it was read anew."""
        extra = "routing: {smart: {aim: {cloud_share: 20%}}}"
        board = Board(compiled(extra), in_memory())
        first = board.view(compiled(extra))
        aim = first.aim("acme")
        assert board.view(compiled(extra)).aim("acme") is aim

    async def test_changed(self) -> None:
        """Another routing, or another share to explore, begins anew; knowledge stays."""
        board = Board(compiled(), in_memory())
        first = board.view(compiled())
        for extra in ("routing: {smart: {aim: quality}}", "learning: {explore: 5%}"):
            changed = board.view(compiled(extra))
            assert changed is not first
            assert changed.knowledge is board.knowledge

    async def test_learning_is_switched_off(self) -> None:
        """A reload can switch learning off, and on again with what was known."""
        board, off = Board(compiled(LEARNING), in_memory()), compiled("learning: off")
        for _ in range(5):
            board.ended(request(), FLAWED, compiled())
        learned = board.knowledge.learned("acme")
        before = learned.chance(CELL, "near/n", 0.7).mean
        board.view(off)
        assert learned.chance(CELL, "near/n", 0.7).mean == 0.7
        board.view(compiled(LEARNING))
        assert learned.chance(CELL, "near/n", 0.7).mean == before < 0.7

    def test_reads_are_few(self) -> None:
        """Of requests that are not weighed a worker reads so many texts a second, and none where it does not learn."""
        known = Knowledge(LearningConfig())
        assert [known.may_read(NOW + number) for number in range(READS + 2)] == READS * [True] + [False, False]
        assert known.may_read(NOW + 1000)
        known.configure(LearningConfig(enabled=False))
        assert not known.may_read(NOW + 2000)
