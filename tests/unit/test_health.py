"""Passive health: what outcomes do to a backend's state, what workers share, and the order of a chain."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core.errors import Kind as ProblemKind
from extproc.core.errors import Problem
from extproc.core.events import End
from extproc.core.routing import busy, health, latency
from extproc.core.routing.busy import Busy
from extproc.core.routing.endings import Outcome, outcome_of, silent
from extproc.core.routing.health import BUCKET_MS, HealthBook
from extproc.core.usage import Tokens
from extproc.runtime import Backend
from tests.stage_kit import NOW, runtime

A, B, C = "claude/c", "gpt/g", "qwen/q"
CHAIN = runtime().chains["cloud"].backends
SECOND = 1000
RECOVERY_MS = 70_000
"""The longest pause with its jitter, and some seconds of probes."""


def outcome(kind: Any = "ok", backend: str = A, **fields: Any) -> Outcome:
    return Outcome(backend, backend.split("/")[0], kind, **fields)


def feed(book: HealthBook, kinds: str, now: int = NOW, step: int = 100, backend: str = A) -> int:
    """Note one outcome per letter (. ok, f failed, t timeout); returns the time after them."""
    for letter in kinds:
        book.note(outcome({".": "ok", "f": "failed", "t": "timeout"}[letter], backend), now)
        now += step
    return now


def until(book: HealthBook, backend: str, now: int, *states: str) -> int:
    """The first time, looked at every 50 ms, at which the backend is in one of these states."""
    for later in range(now, now + 700_000, 50):
        if book.state(backend, later)[0] in states:
            return later
    raise AssertionError(f"{backend} is never {states}")


def ids(order: tuple[tuple[Backend, ...], tuple[str, ...]]) -> list[str]:
    return [backend.id for backend in order[0]]


class TestOpening:
    """When a backend is no longer asked."""

    @pytest.mark.parametrize(("kinds", "state"), [
        ("", "up"), ("f", "up"), ("ff", "up"), ("fff", "open"), ("ttt", "open"), (".fff", "open"), ("...fff", "up"),
        ("..fff", "open"), (".f.f.f", "up"), ("f.f.fff", "open"), ("....ffff", "up"), ("." * 40 + "ffff." * 5, "up"),  # never five in a row
        ("." * 40 + "fffff", "open"),
    ])
    def test_share(self, kinds: str, state: str) -> None:
        """It opens when more than half of at least five failed of late, or of three in a row, or after five in a row
        whatever went before; not before."""
        book = HealthBook()
        now = feed(book, kinds)
        assert book.state(A, now)[0] == state

    def test_others_are_not_touched(self) -> None:
        """One backend's failures say nothing of another's, and of an unknown one nothing is known."""
        book = HealthBook()
        now = feed(book, "fff")
        assert [book.state(b, now) for b in (B, "new/one")] == [("up", "")] * 2

    def test_old_failures(self) -> None:
        """What failed over half a minute ago no longer counts."""
        book = HealthBook()
        feed(book, "....ffff")
        now = feed(book, ".ff", NOW + 60_000)
        assert book.state(A, now)[0] == "up"

    def test_clients_mistakes(self) -> None:
        """Outcomes that are the client's own are not counted at all."""
        book = HealthBook()
        assert [book.note(outcome("client"), NOW) for _ in range(20)] == [{}] * 20
        assert book.state(A, NOW) == ("up", "")

    def test_reason(self) -> None:
        """The reason says what failed and when it is tried again."""
        book = HealthBook()
        now = feed(book, "ttt")
        assert book.state(A, now)[1].startswith("open, timeouts, next try in ")

    def test_pauses_double(self) -> None:
        """Each pause in a row is twice as long, from about five seconds to about a minute."""
        book, now, pauses = HealthBook(), feed(HealthBook(), ""), []
        for _ in range(6):
            now = feed(book, "f" if pauses else "fff", now, step=0)
            assert book.state(A, now)[0] == "open"
            probing = until(book, A, now, "probing")
            pauses.append(probing - now)
            now = probing
        for pause, expected in zip(pauses, (5, 10, 20, 40, 60, 60), strict=True):
            assert 0.9 * expected * SECOND <= pause <= 1.1 * expected * SECOND + 50

    def test_after_long_quiet_the_pause_is_short_again(self) -> None:
        """Up for two minutes, a backend starts with the shortest pause."""
        book = HealthBook()
        now = feed(book, "fff")
        now = until(book, A, now, "probing")
        now = until(book, A, feed(book, "f", now), "probing")
        now = feed(book, "...", now)
        assert book.state(A, now)[0] == "up"
        now = feed(book, "fff", now + 130_000)
        assert until(book, A, now, "probing") - now <= 5_500 + 50


class TestProbing:
    """How it comes back."""

    def probing(self) -> tuple[HealthBook, int]:
        book = HealthBook()
        now = feed(book, "...fffff")
        return book, until(book, A, now, "probing")

    @pytest.mark.parametrize(("kinds", "state"), [
        ("", "probing"), (".", "probing"), ("..", "probing"), ("...", "up"), ("f", "open"), (".f", "open"),
        ("..f", "probing"), ("..f.", "probing"), ("..f..", "up"), ("..ff", "open"),
    ])
    def test_tries(self, kinds: str, state: str) -> None:
        """Three good answers with at most a fifth bad ones close it; as many bad ones as good ones open it again."""
        book, now = self.probing()
        assert book.state(A, feed(book, kinds, now))[0] == state

    def test_share_of_requests(self) -> None:
        """Of many requests at once, one in ten or so goes there, up to three until one is heard of."""
        book, now = self.probing()
        first = [ids(book.order(CHAIN, now, f"request {i}"))[0] == A for i in range(200)]
        assert sum(first) == 3
        assert first[0]

    def test_one_a_second(self) -> None:
        """Rare requests go there one a second, as long as they are heard of."""
        book, now = self.probing()
        taken = 0
        for number in range(20):
            if ids(book.order(CHAIN, now, "same rid"))[0] == A:
                taken += 1
                book.note(outcome("client"), now)
            now += 500
            assert book.state(A, now)[0] == "probing", number
        assert taken == 10

    def test_behind_one_that_is_up(self) -> None:
        """Where it is not the first to be asked it keeps its place, and no tries are used up."""
        book, now = self.probing()
        behind = (CHAIN[1], CHAIN[0], CHAIN[2])
        assert {tuple(ids(book.order(behind, now, str(i)))) for i in range(50)} == {(B, A, C)}
        assert ids(book.order(CHAIN, now, "x"))[0] == A

    def test_a_probe_that_is_never_heard_of(self) -> None:
        """Probes without an outcome are given up after half a minute."""
        book, now = self.probing()
        for i in range(100):
            book.order(CHAIN, now, f"request {i}")
        assert ids(book.order(CHAIN, now + 29_000, "x"))[-1] == A
        assert ids(book.order(CHAIN, now + 31_000, "x"))[0] == A

    def test_the_same_request_is_judged_the_same(self) -> None:
        """Which requests try is told by their id: two workers agree."""
        rids = [f"request {i}" for i in range(50)]
        chosen: list[list[str]] = []
        for _ in range(2):
            book, now = self.probing()
            chosen.append([rid for rid in rids if ids(book.order(CHAIN, now, rid))[0] == A])
        assert chosen[0] == chosen[1]


class TestCooling:
    """What said when to come back."""

    @pytest.mark.parametrize("kind", ["rate_limited", "overloaded"])
    def test_told(self, kind: str) -> None:
        """It is left alone until the time it told, and up at once after that."""
        book = HealthBook()
        book.note(outcome(kind, retry_after_ms=12_000), NOW)
        word = "429" if kind == "rate_limited" else "overloaded"
        assert book.state(A, NOW) == ("cooling", f"cooling, {word}, 12 s left")
        assert book.state(A, NOW + 11_999)[0] == "cooling"
        assert book.state(A, NOW + 12_000) == ("up", "")

    def test_longest(self) -> None:
        """No more than ten minutes, whatever was told."""
        book = HealthBook()
        book.note(outcome("rate_limited", retry_after_ms=10**12), NOW)
        assert until(book, A, NOW, "up") == NOW + 600_000

    def test_untold(self) -> None:
        """Without a time: two seconds, doubled each time it refuses again, up to a minute; a success forgets that."""
        book, now, pauses = HealthBook(), NOW, []
        for _ in range(7):
            book.note(outcome("rate_limited"), now)
            after = until(book, A, now, "up")
            pauses.append(after - now)
            now = after
        assert pauses == [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        book.note(outcome(), now)
        book.note(outcome("overloaded"), now)
        assert until(book, A, now, "up") == now + 2000

    def test_many_at_once(self) -> None:
        """Requests that are refused together double nothing."""
        book = HealthBook()
        for i in range(50):
            book.note(outcome("rate_limited"), NOW + i)
        assert until(book, A, NOW, "up") == NOW + 2000

    def test_refusals_are_no_failures(self) -> None:
        """Being refused a hundred times opens nothing."""
        book = HealthBook()
        for i in range(100):
            book.note(outcome("rate_limited", retry_after_ms=1), NOW + i * 10)
        assert book.state(A, NOW + 2000) == ("up", "")


class TestSlow:
    """Slow against its own past."""

    def book(self, usual: int, late: int, many: int = 30, few: int = 6) -> tuple[HealthBook, int]:
        book = HealthBook()
        for i in range(many):
            book.note(outcome(first_event_ms=usual), NOW + i * SECOND)
        now = NOW + 120_000
        for _ in range(few):
            book.note(outcome(first_event_ms=late), now)
        return book, now

    @pytest.mark.parametrize(("usual", "late", "many", "few", "state"), [
        (1000, 9000, 30, 6, "cooling"), (1000, 2500, 30, 6, "up"), (100, 1500, 30, 6, "up"), (100, 4000, 30, 6, "cooling"),
        (1000, 9000, 10, 6, "up"), (1000, 9000, 30, 4, "up"), (9000, 9000, 30, 6, "up"), (9000, 100, 30, 6, "up"),
    ])
    def test_times(self, usual: int, late: int, many: int, few: int, state: str) -> None:
        """Slow is three times its usual median and over two seconds, where there are enough times to say so."""
        book, now = self.book(usual, late, many, few)
        assert book.state(A, now + SECOND)[0] == state

    def test_reason_and_end(self) -> None:
        """The reason tells both medians; it is over when the slow answers are half a minute ago."""
        book, now = self.book(1000, 9000)
        reason = book.state(A, now)[1]
        assert reason.startswith("cooling, slow: first event after ")
        late, usual = (int(word) for word in reason.split() if word.isdigit())
        assert (9000 / 1.42 < late < 9000 * 1.42, 1000 / 1.42 < usual < 1000 * 1.42) == (True, True)
        assert until(book, A, now, "up") <= now + 50_000

    def test_first_event(self) -> None:
        """The median time to the first event, of late if there were enough, else of ten minutes; None of nothing."""
        book, now = self.book(1000, 9000)
        assert book.first_event_ms(B, now) is None
        assert 6000 < (book.first_event_ms(A, now + SECOND) or 0) < 13_000
        assert 700 < (book.first_event_ms(A, now + 60_000) or 0) < 1500
        book.note(outcome(backend=C, duration_ms=5000), now)
        assert book.first_event_ms(C, now) is None

    @given(st.integers(-5, 2**40))
    def test_classes(self, ms: int) -> None:
        """The middle of a class is within a factor of the fourth root of two, and classes are two digits."""
        number = latency.index(ms)
        assert 0 <= number <= 99
        assert latency.middle(number) / 1.5 <= min(max(ms, 1), latency.MOST_MS) <= latency.middle(number) * 1.5 + 1


class TestOrder:
    """How a chain is tried."""

    def test_all_up(self) -> None:
        """Nothing known: the chain's own order, and no reasons."""
        assert HealthBook().order(CHAIN, NOW, "r") == (CHAIN, ())

    def test_moved(self) -> None:
        """What is not up goes to the end, in the chain's order, each with a reason in words."""
        book = HealthBook()
        now = feed(book, "fff", backend=A)
        book.note(outcome("rate_limited", B, retry_after_ms=12_000), now)
        order, reasons = book.order(CHAIN, now, "r")
        assert [b.id for b in order] == [C, A, B]
        assert reasons[0].startswith("claude/c: open, errors, next try in ")
        assert reasons[1] == "gpt/g: cooling, 429, 12 s left"
        assert book.down(now) == {A, B}

    def test_none_up(self) -> None:
        """When all are out, those that are least so come first, and nobody is dropped."""
        book = HealthBook()
        now = NOW
        for backend in (A, B):
            now = feed(book, "fff", now, 10, backend)
        book.note(outcome("rate_limited", C, retry_after_ms=9000), now)
        order, reasons = book.order(CHAIN, now, "r")
        assert ([b.id for b in order], len(reasons)) == ([C, A, B], 2)
        now = feed(book, "fff", now, 10, C)
        assert book.order(CHAIN, now, "r") == (CHAIN, ())

    def test_full(self) -> None:
        """A backend with as many requests as it can take goes behind those that are free, before none that is out."""
        chain = (msgspec.structs.replace(CHAIN[2], capacity=4), *CHAIN[:2])
        book = HealthBook()
        assert ids(book.order(chain, NOW, "r", {"qwen": 3})) == [C, A, B]
        assert book.order(chain, NOW, "r", {"qwen": 4}) == ((*CHAIN[:2], chain[0]), (
            "qwen/q: busy, 4 requests where 4 fit",))
        assert ids(book.order(chain, NOW, "r", {"claude": 400, "gpt": 400})) == [C, A, B]
        now = feed(book, "fff", backend=A)
        now = feed(book, "fff", now, backend=B)
        assert ids(book.order(chain, now, "r", {"qwen": 4})) == [C, A, B]

    def test_empty(self) -> None:
        """A chain of nothing stays one."""
        assert HealthBook().order((), NOW, "r") == ((), ())


class Store:
    """The shared buckets, as the store keeps them."""

    def __init__(self) -> None:
        self.buckets: dict[int, dict[str, int]] = {}
        self.cooled: dict[str, int] = {}

    def exchange(self, book: HealthBook, now: int) -> None:
        self.add(book, now)
        self.read(book, now)

    def add(self, book: HealthBook, now: int) -> None:
        for bucket, counts in book.take().items():
            held = self.buckets.setdefault(bucket, {})
            for field, count in counts.items():
                held[field] = held.get(field, 0) + count
        for field, moment in book.cooled(now).items():
            self.cooled[field] = max(moment, self.cooled.get(field, 0))

    def read(self, book: HealthBook, now: int) -> None:
        book.load({b: self.buckets.get(b, {}) for b in book.wanted(now)}, dict(self.cooled), now)


def counted(book: HealthBook, backend: str, now: int) -> dict[str, int]:
    """All that a book counts for a backend, by looking at what a store would hold if it alone had all counts."""
    total: dict[str, int] = {}
    for bucket, counts in book._records[backend].buckets.items():  # pyright: ignore[reportPrivateUsage]
        assert bucket <= now // BUCKET_MS + 1
        for field, count in counts.items():
            total[field] = total.get(field, 0) + count
    return total


class TestSharing:
    """What workers learn from each other."""

    def test_a_new_worker_does_not_judge_what_is_past(self) -> None:
        """A worker that starts takes from the others what is open, not the failures that they have judged already."""
        store, old, new = Store(), HealthBook(), HealthBook()
        now = feed(old, "ffffffffff")
        store.exchange(old, now)
        store.cooled.clear()  # it has recovered since: nothing is open any more
        store.exchange(new, now + 1000)
        store.exchange(new, now + 2000)
        assert new.state(A, now + 2000)[0] == "up"

    def test_failures_add_up(self) -> None:
        """Failures that no worker would open on alone open for all."""
        store, books = Store(), [HealthBook() for _ in range(3)]
        for book in books:
            store.exchange(book, NOW - 60_000)
            feed(book, "ff")
        assert {book.state(A, NOW)[0] for book in books} == {"up"}
        for _ in range(2):
            for book in books:
                store.exchange(book, NOW + 300)
        assert {book.state(A, NOW + 300)[0] for book in books} == {"open"}

    def test_pauses_are_shared(self) -> None:
        """What one worker was told to leave alone, all do; a worker that starts later too."""
        store, first, second = Store(), HealthBook(), HealthBook()
        first.note(outcome("rate_limited", retry_after_ms=30_000), NOW)
        now = feed(first, "fff", NOW, 10, B)
        store.exchange(first, now)
        store.exchange(second, now)
        assert [second.state(b, now)[0] for b in (A, B)] == ["cooling", "open"]
        assert first.state(A, now) == second.state(A, now)
        assert second.state(A, NOW + 30_000)[0] == "up"

    @pytest.mark.parametrize("moment", [NOW - 1, NOW + 10**9, -5, 2**60])
    def test_shared_moments_without_sense(self, moment: int) -> None:
        """A moment that is over, or further away than any pause, is not believed."""
        book = HealthBook()
        book.load({}, {f"cool:{A}": moment, f"open:{A}": moment, "x": 1, "": 2, ":": moment}, NOW)
        assert book.state(A, NOW) == ("up", "")

    def test_counted_once(self) -> None:
        """Own counts are there before, while and after they are shared, once."""
        store, book, other = Store(), HealthBook(), HealthBook()
        now = feed(book, "..f")
        assert counted(book, A, now)["ok"] == 2
        store.add(book, now)
        now = feed(book, ".", now)
        assert counted(book, A, now)["ok"] == 3
        store.read(book, now)
        assert counted(book, A, now)["ok"] == 3
        feed(other, "....")
        store.exchange(other, now)
        for _ in range(3):
            store.exchange(book, now)
        assert counted(book, A, now)["ok"] == 7

    def test_store_away(self) -> None:
        """Counts that the store did not take come again, with those noted meanwhile."""
        store, book = Store(), HealthBook()
        now = feed(book, "..")
        assert book.take()
        now = feed(book, ".", now)
        book.untake()
        assert counted(book, A, now)["ok"] == 3
        store.exchange(book, now)
        assert (counted(book, A, now)["ok"], store.buckets[NOW // BUCKET_MS][f"{A}|ok"]) == (3, 3)

    def test_only_reading_fails(self) -> None:
        """Counts that were added but not read back are kept, and not added again."""
        store, book = Store(), HealthBook()
        now = feed(book, "..")
        store.add(book, now)
        book.load({}, None, now)
        assert (counted(book, A, now)["ok"], book.take()) == (2, {})
        store.exchange(book, now)
        assert counted(book, A, now)["ok"] == 2

    def test_wanted(self) -> None:
        """All buckets at first, then the latest, and after a silence those that were missed."""
        book = HealthBook()
        assert len(book.wanted(NOW)) == health.KEPT
        book.load({}, {}, NOW)
        assert book.wanted(NOW + 10_000) == [NOW // BUCKET_MS + i for i in range(-3, 2)]
        assert len(book.wanted(NOW + 200_000)) == 24
        assert len(book.wanted(NOW + 10**9)) == health.KEPT
        assert book.wanted(NOW - 10**6)[-1] == book.bucket(NOW - 10**6)

    def test_garbage(self) -> None:
        """Fields that nobody writes are passed over."""
        book = HealthBook()
        book.load({NOW // BUCKET_MS: {"": 1, "other": 9, "|": 2, "x|": 1, f"{A}|f²": 1, f"{A}|fff": 1, f"{A}|f9": 2}}, {}, NOW)
        assert book.state(A, NOW) == ("up", "")
        assert book.first_event_ms(A, NOW) == latency.middle(9)

    def test_bounded(self) -> None:
        """Names without end are one backend to the book, and what is old is forgotten."""
        book = HealthBook()
        for i in range(health.MOST_BACKENDS + 100):
            book.note(outcome(backend=f"b/{i}"), NOW)
        fields = {field for counts in book.take().values() for field in counts}
        assert "other|ok" in fields
        assert len({f.rpartition("|")[0] for f in fields}) == health.MOST_BACKENDS + 1
        book.load({}, {}, NOW + 10**7)
        book.load({}, {}, NOW + 10**7)
        assert counted(book, "b/1", NOW + 10**7) == {}


_kinds = st.sampled_from(["ok", "ok", "ok", "failed", "timeout", "broken", "overloaded", "rate_limited", "client"])
_steps = st.lists(st.tuples(
    st.sampled_from([A, B, C]), _kinds, st.integers(0, 20_000), st.sampled_from([None, 1, 5000, 10**9]),
    st.sampled_from([None, 1, 300, 20_000])), max_size=120)
_jumps = st.sampled_from([0, 0, 0, 0, -3_600_000, 3_600_000, -30_000, -10**12, 10**12])


class TestProperties:
    """Whatever happens."""

    @settings(deadline=None, max_examples=60)
    @given(_steps, st.lists(_jumps, max_size=4))
    def test_order_is_a_stable_partition(self, steps: list[Any], jumps: list[int]) -> None:
        """Nobody is dropped or doubled, and both parts keep the chain's order, under any outcomes and clocks."""
        book, store, now = HealthBook(), Store(), NOW
        for number, (backend, kind, pause, after, first) in enumerate(steps):
            now += pause + (jumps[number] if number < len(jumps) else 0)
            book.note(outcome(kind, backend, retry_after_ms=after, first_event_ms=first), now)
            if number % 5 == 0:
                store.exchange(book, now)
            order, reasons = book.order(CHAIN, now, str(number))
            moved = len(CHAIN) - len(reasons)
            places = [CHAIN.index(b) for b in order]
            assert sorted(places) == [0, 1, 2]
            assert places[:moved] == sorted(places[:moved])
            assert places[moved:] == sorted(places[moved:])

    @settings(deadline=None, max_examples=60)
    @given(_steps, st.lists(_jumps, max_size=4))
    def test_every_backend_comes_back(self, steps: list[Any], jumps: list[int]) -> None:
        """After any past and any clock, good answers bring a backend back within a bounded time."""
        book, store, now = HealthBook(), Store(), NOW
        for number, (backend, kind, pause, _, first) in enumerate(steps):
            now += pause + (jumps[number] if number < len(jumps) else 0)
            book.note(outcome(kind, backend, first_event_ms=first), now)
            store.exchange(book, now)
        start = now
        while any(book.state(b, now)[0] != "up" for b in (A, B, C)):
            assert now - start < 2 * RECOVERY_MS + (600_000 if min(jumps, default=0) < 0 else 0)
            now += 500
            for backend in CHAIN:
                if ids(book.order((backend, *[b for b in CHAIN if b is not backend]), now, str(now)))[0] == backend.id:
                    book.note(outcome(backend=backend.id, first_event_ms=300), now)
            store.exchange(book, now)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.booleans(), min_size=100, max_size=2400))
    def test_flapping_is_bounded(self, answers: list[bool]) -> None:
        """However a backend answers, ten minutes hold a bounded number of changes."""
        book, changes, before = HealthBook(), 0, "up"
        for number in range(2400):
            now = NOW + number * 250
            state = book.state(A, now)[0]
            if ids(book.order(CHAIN, now, str(number)))[0] == A:
                book.note(outcome("ok" if answers[number % len(answers)] else "failed"), now)
            changes += state != before
            before = state
        assert changes <= 60

    def test_recovery_time(self) -> None:
        """A backend that was away for ten minutes is back within the longest pause and a few probes."""
        book, now = HealthBook(), NOW
        while now < NOW + 600_000:
            if ids(book.order(CHAIN, now, str(now)))[0] == A:
                book.note(outcome("failed"), now)
            now += 200
        back = now
        while book.state(A, now)[0] != "up":
            if ids(book.order(CHAIN, now, str(now)))[0] == A:
                book.note(outcome(), now)
            now += 200
        assert now - back <= RECOVERY_MS

    def test_outage_costs_few_requests(self) -> None:
        """Of five requests a second over a ten-minute outage only a few are tried at the backend that is away."""
        book, tried = HealthBook(), 0
        for number in range(3000):
            now = NOW + number * 200
            if ids(book.order(CHAIN, now, str(number)))[0] == A:
                tried += 1
                book.note(outcome("failed"), now)
        assert tried <= 20


class TestBusy:
    """Requests under way, over all workers."""

    def exchange(self, store: dict[int, dict[str, int]], workers: list[Busy], now: int) -> None:
        for worker in workers:
            if (told := worker.report(now)) is not None:
                held = store.setdefault(told[0], {})
                for name, count in told[1].items():
                    held[name] = held.get(name, 0) + count
        for worker in workers:
            worker.load(worker.wanted(now), store.get(worker.wanted(now), {}))

    def test_own(self) -> None:
        """Own requests count at once, and never below nothing."""
        one = Busy()
        one.begin("qwen")
        one.begin("qwen")
        one.end("qwen")
        assert one.total() == {"qwen": 1}
        one.end("qwen")
        one.end("qwen")
        assert one.total() == {}

    def test_of_all(self) -> None:
        """After a window each worker knows of the others' and counts its own once, as they are now."""
        store, workers = dict[int, dict[str, int]](), [Busy() for _ in range(3)]
        for number, worker in enumerate(workers):
            for _ in range(number + 1):
                worker.begin("qwen")
        for second in range(4):
            self.exchange(store, workers, NOW + second * SECOND)
        assert [worker.total() for worker in workers] == [{"qwen": 6}] * 3
        workers[2].end("qwen")
        assert workers[2].total() == {"qwen": 5}

    def test_a_worker_dies(self) -> None:
        """What a dead worker had under way is forgotten."""
        store, workers = dict[int, dict[str, int]](), [Busy(), Busy()]
        for _ in range(4):
            workers[1].begin("qwen")
        for second in range(4):
            self.exchange(store, workers, NOW + second * SECOND)
        assert workers[0].total() == {"qwen": 4}
        for second in range(4, 4 + 2 * busy.WINDOW_MS // SECOND):
            self.exchange(store, workers[:1], NOW + second * SECOND)
        assert workers[0].total() == {}

    def test_once_per_window(self) -> None:
        """A worker that is called more often reports once."""
        one = Busy()
        assert [one.report(NOW + i * 500) is not None for i in range(8)] == [True, False, False, False] * 2


# ------------------------------------------------------------------------------------ classifying

def end(settled: Any = "exact", status: int = 200, problem: ProblemKind | None = None, duration_ms: int = 900,
        after: int | None = None, **fields: Any) -> End:
    return End(1, "claude", "c", settled, settled == "exact", Tokens(output=7), 0, status, duration_ms,
               problem=None if problem is None else Problem(problem, "words", retry_after=after), **fields)


@pytest.mark.parametrize(("settled", "kind"), [
    (end(first_event_ms=200), "ok"),
    (end("estimated", first_event_ms=200, finish_reason="stop"), "ok"),
    (end("estimated", first_event_ms=900), "ok"),
    (end("failed", 429, "rate_limit"), "rate_limited"),
    (end("failed", 402, "quota"), "rate_limited"),
    (end("failed", 529, "overloaded"), "overloaded"),
    (end("failed", 200, "overloaded"), "overloaded"),
    (end("failed", 500, "upstream"), "failed"),
    (end("failed", 200, "upstream"), "failed"),
    (end("failed", 503, "unavailable"), "failed"),
    (end("failed", 401, "authentication"), "failed"),
    (end("failed", 401, "upstream"), "failed"),
    (end("failed", 403, "permission"), "failed"),
    (end("failed", 404, "not_found"), "failed"),
    (end("failed", 400, "invalid_request"), "client"),
    (end("failed", 400, "context_length"), "client"),
    (end("failed", 413, "too_large"), "client"),
    (end("failed", 422, "upstream"), "client"),
    (end("failed", 0, "invalid_request"), "client"),
    (end("failed", 0, "internal"), "client"),
    (end("failed", 504, "timeout"), "timeout"),
    (end("estimated", 200, "timeout", first_event_ms=100), "timeout"),
    (end("estimated", 200, "upstream", first_event_ms=100), "failed"),
    (end("estimated", 200, first_event_ms=100), "client"),
    (end("estimated", 0), "client"),
    (end("estimated", 0, duration_ms=4990), "timeout"),
    (end("estimated", 200, duration_ms=5001), "timeout"),
    (end("estimated", 200, duration_ms=60_000, first_event_ms=100), "client"),
])
def test_outcome_of(settled: End, kind: str) -> None:
    """Success, the provider's failures, its refusals; and what says nothing of it: the client's mistakes and cuts."""
    found = outcome_of(settled, "claude/c", 5000, stream=True)
    assert (found.kind, found.backend, found.name, found.output_tokens) == (kind, "claude/c", "claude", 7)


def test_retry_after() -> None:
    """How long to wait is told in seconds by the problem, more exactly by the caller, and only of refusals."""
    refused = end("failed", 429, "rate_limit", after=12)
    assert outcome_of(refused, A, 5000, stream=True).retry_after_ms == 12_000
    assert outcome_of(refused, A, 5000, stream=True, retry_after_ms=1500).retry_after_ms == 1500
    assert outcome_of(end("failed", 500, "upstream", after=12), A, 5000, stream=True).retry_after_ms is None


def test_first_event_of_streams_alone() -> None:
    """An answer that is not streamed has its first event at its end, which says nothing of the time to one."""
    settled = end(first_event_ms=200)
    assert [outcome_of(settled, A, 5000, stream=s).first_event_ms for s in (True, False)] == [200, None]


@pytest.mark.parametrize(("told", "answered", "found"), [
    ({}, False, ("a", "b", "c")), ({}, True, ()),
    ({1: ("a", True)}, True, ()), ({1: ("a", False)}, False, ()),
    ({2: ("b", True)}, True, ("a",)), ({3: ("c", True)}, True, ("a", "b")),
    ({1: ("a", False), 2: ("b", True)}, True, ("a",)), ({1: ("a", True), 2: ("b", True)}, True, ()),
    ({1: ("b", True)}, True, ()), ({1: ("b", False), 2: ("b", True)}, True, ("b",)),
    ({1: ("b", True), 3: ("c", True)}, True, ()),
])
def test_silent(told: dict[int, tuple[str, bool]], answered: bool, found: tuple[str, ...]) -> None:
    """Attempts that others followed failed, also those that said nothing or never began; passed over is not failed."""
    assert silent(("a", "b", "c"), told, answered=answered) == found
