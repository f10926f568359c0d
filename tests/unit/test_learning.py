"""Learning from outcomes: cells, beliefs, what bounds them, the shared picture, and a world that changes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config.learning import LearningConfig
from extproc.core.routing.learning import (
    HEAVIEST,
    HIGHEST,
    LOWEST,
    MOST_BACKENDS,
    MOST_KEYS,
    MOST_WEIGHT,
    PER_KEY,
    Learned,
    cell_of,
    explores,
)

CELL, LOCAL, CLOUD = "debug.m.t", "qwen/q", "claude/c"
DAY = 20_000


def noted(learned: Learned, good: int, bad: int, *, cell: str = CELL, backend: str = LOCAL, day: int = DAY,
          prior: float = 0.7) -> None:
    """Count outcomes, each from a key of its own."""
    for number in range(good + bad):
        learned.note(cell, backend, number < good, 1, day, prior=prior, key=f"k{number % 400}")


class TestCells:
    """The kinds of request under which outcomes are counted."""

    @pytest.mark.parametrize(("task", "tokens", "tools", "cell"), [
        ("debug", 1_000, 0, "debug.s.n"), ("debug", 1_001, 1, "debug.m.t"), ("edit", 8_000, 30, "edit.m.t"),
        ("chat", 8_001, 0, "chat.l.n"), ("math", 32_001, 2, "math.xl.t"), ("embeddings", 0, 0, "other.s.n"),
        ("no such task\n", -5, -1, "other.s.n"),
    ])
    def test_cell(self, task: str, tokens: int, tools: int, cell: str) -> None:
        """Task, length and whether there are tools name the cell; a task that the text model lacks is `other`."""
        assert cell_of(task, tokens, tools) == cell


class TestBelief:
    """From the prior to what was seen."""

    def test_prior(self) -> None:
        """Without outcomes the prior is believed, as much as its weight says."""
        assert Learned().chance(CELL, LOCAL, 0.66) == (pytest.approx(0.66), 20.0)

    def test_beta(self) -> None:
        """With a constant prior the mean is that of a Beta posterior, and the weight counts prior and outcomes."""
        learned = Learned(prior_weight=20)
        noted(learned, 12, 28)
        assert learned.chance(CELL, LOCAL, 0.7) == (pytest.approx((20 * 0.7 + 12) / 60), 60.0)

    def test_order_is_kept(self) -> None:
        """A bad cell moves all its requests by the same step of odds: the likelier one stays the likelier one."""
        learned = Learned()
        noted(learned, 10, 90)
        easy, middle, hard = (learned.chance(CELL, LOCAL, prior).mean for prior in (0.9, 0.7, 0.5))
        assert hard < middle < easy < 0.7

    def test_promises_kept(self) -> None:
        """A cell of easy requests that turn out as promised moves nothing, though its rate is above the usual."""
        learned = Learned()
        noted(learned, 90, 10, prior=0.9)
        assert learned.chance(CELL, LOCAL, 0.6).mean == pytest.approx(0.6, abs=0.001)

    def test_rare_cells_learn_from_their_task(self) -> None:
        """A cell without outcomes follows the other cells of its task at that backend, and no other task's."""
        learned = Learned()
        noted(learned, 10, 90)
        assert learned.chance("debug.xl.n", LOCAL, 0.7).mean < 0.3
        assert learned.chance("debug.xl.n", LOCAL, 0.7).weight == 20
        assert learned.chance("edit.m.t", LOCAL, 0.7).mean == pytest.approx(0.7)
        assert learned.chance("debug.xl.n", CLOUD, 0.7).mean == pytest.approx(0.7)

    def test_own_cell_wins(self) -> None:
        """A cell's own outcomes outweigh those of its task."""
        learned = Learned()
        noted(learned, 0, 300)
        noted(learned, 300, 0, cell="debug.s.n")
        assert learned.chance("debug.s.n", LOCAL, 0.7).mean > 0.9
        assert learned.chance(CELL, LOCAL, 0.7).mean < 0.1

    def test_off(self) -> None:
        """Switched off, nothing is counted and the prior is all there is."""
        learned = Learned(enabled=False)
        assert learned.note(CELL, LOCAL, False, 5, DAY, prior=0.7) == {}
        learned.load({DAY: {f"{CELL} bad {LOCAL}": 400, f"{CELL} due {LOCAL}": 280_000}}, DAY)
        assert learned.chance(CELL, LOCAL, 0.7).mean == 0.7

    def test_interval(self) -> None:
        """The interval holds the mean, is inside 0 to 1, and narrows with outcomes."""
        learned = Learned()
        before = learned.chance(CELL, LOCAL, 0.7)
        noted(learned, 210, 90)
        after = learned.chance(CELL, LOCAL, 0.7)
        assert 0 < before.interval()[0] < 0.7 < before.interval()[1] < 1
        assert after.interval()[1] - after.interval()[0] < (before.interval()[1] - before.interval()[0]) / 3

    @given(prior=st.floats(-1, 2), good=st.integers(0, 600), bad=st.integers(0, 600), age=st.integers(0, 200),
           promised=st.integers(0, 2_000_000))
    def test_bounds(self, prior: float, good: int, bad: int, age: int, promised: int) -> None:
        """Whatever the store holds, the belief stays within its limits and its weight within the cap."""
        learned = Learned()
        learned.load({DAY - age: {f"{CELL} ok {LOCAL}": good, f"{CELL} bad {LOCAL}": bad,
                                  f"{CELL} due {LOCAL}": promised}}, DAY)
        found = learned.chance(CELL, LOCAL, prior)
        assert LOWEST <= found.mean <= HIGHEST
        assert 20 <= found.weight <= 20 + MOST_WEIGHT + 1e-6


class TestDecay:
    """The past fades."""

    def test_half_life(self) -> None:
        """An outcome counts half after a half-life, and nothing after four."""
        for age, weight in ((0, 100.0), (14, 50.0), (28, 25.0), (55, 6.57), (56, 0.0)):
            learned = Learned(half_life=14)
            noted(learned, 50, 50, day=DAY - age)
            learned.load({}, DAY)
            assert learned.evidence(CELL, LOCAL).all == pytest.approx(weight, abs=0.01)

    def test_newest_first(self) -> None:
        """Of more outcomes than count, the newest do: a year of successes does not hide a bad day."""
        learned = Learned()
        learned.load({DAY - 1: {f"{CELL} ok {LOCAL}": 90_000, f"{CELL} due {LOCAL}": 63_000_000},
                      DAY: {f"{CELL} bad {LOCAL}": 400, f"{CELL} due {LOCAL}": 280_000}}, DAY)
        seen = learned.evidence(CELL, LOCAL)
        assert (seen.good, seen.all) == (pytest.approx(100), pytest.approx(MOST_WEIGHT))

    def test_days_are_bounded(self) -> None:
        """However long the half-life, a bounded number of days is read, and older ones are forgotten."""
        learned = Learned(half_life=365)
        assert len(learned.wanted(DAY)) == learned.days == 120
        noted(learned, 1, 0, day=DAY - 120)
        learned.load({}, DAY)
        assert list(learned.pairs()) == []


class TestReload:
    """Another configuration."""

    def test_configure(self) -> None:
        """What is known stays, and counts as the new configuration says; more days are asked for where they count."""
        learned = Learned(half_life=14)
        noted(learned, 0, 100, day=DAY - 14)
        learned.load({day: {} for day in learned.wanted(DAY) if day > DAY - 10}, DAY)
        assert learned.evidence(CELL, LOCAL).all == pytest.approx(50)
        learned.configure(enabled=True, half_life=28, prior_weight=5)
        assert learned.evidence(CELL, LOCAL).all == pytest.approx(100 * 0.5**0.5)
        assert learned.chance(CELL, LOCAL, 0.7).weight == pytest.approx(5 + 100 * 0.5**0.5)
        assert min(learned.wanted(DAY)) == DAY - 111
        learned.configure(enabled=False, half_life=28, prior_weight=5)
        assert learned.chance(CELL, LOCAL, 0.7).mean == 0.7


class TestPoisoning:
    """One key cannot decide for all."""

    def test_a_key_has_its_share(self) -> None:
        """A key adds at most its share to a cell on a day, in weight, and has a new one the day after."""
        learned = Learned()
        added = [learned.note(CELL, LOCAL, False, 7, DAY, prior=0.7, key="evil") for _ in range(1_000)]
        assert sum(counts.get(f"{CELL} bad {LOCAL}", 0) for counts in added) == PER_KEY
        assert learned.evidence(CELL, LOCAL).all == PER_KEY
        assert learned.note("edit.m.t", LOCAL, False, 1, DAY, prior=0.7, key="evil") != {}
        assert learned.note(CELL, LOCAL, False, 1, DAY, prior=0.7, key="good") != {}
        assert learned.note(CELL, LOCAL, False, 1, DAY + 1, prior=0.7, key="evil") != {}

    @pytest.mark.parametrize("others", [0, 300, 500])
    def test_how_far_a_key_moves_a_cell(self, others: int) -> None:
        """In a day a key moves a cell by at most its share of the weight that then counts."""
        learned = Learned()
        learned.load({DAY - 1: {f"{CELL} ok {LOCAL}": others, f"{CELL} due {LOCAL}": others * 700}}, DAY)
        before = learned.chance(CELL, LOCAL, 0.7).mean
        for _ in range(1_000):
            learned.note(CELL, LOCAL, False, HEAVIEST, DAY, prior=0.7, key="evil")
        after = learned.chance(CELL, LOCAL, 0.7)
        assert before - after.mean <= PER_KEY / after.weight + 0.02

    def test_bounded_memory(self) -> None:
        """Keys without end and backends without end take a bounded amount of memory."""
        learned = Learned()
        for number in range(MOST_KEYS + 10):
            last = learned.note(CELL, LOCAL, True, 1, DAY, prior=0.7, key=str(number))
        assert last == {}
        learned = Learned()
        for number in range(MOST_BACKENDS + 10):
            learned.note(CELL, f"b/{number}", True, 1, DAY, prior=0.7)
        assert len(list(learned.pairs())) == MOST_BACKENDS

    @pytest.mark.parametrize(("cell", "weight"), [("", 1), ("evil bad x", 1), (CELL, 0), (CELL, -3)])
    def test_no_outcome(self, cell: str, weight: int) -> None:
        """What is no cell or weighs nothing is not counted."""
        assert Learned().note(cell, LOCAL, True, weight, DAY, prior=0.7) == {}

    def test_heaviest(self) -> None:
        """No single outcome weighs more than the heaviest."""
        counts = Learned().note(CELL, LOCAL, True, 10**9, DAY, prior=0.7)
        assert counts == {f"{CELL} ok {LOCAL}": HEAVIEST, f"{CELL} due {LOCAL}": HEAVIEST * 700}


class TestShared:
    """Workers add their counts up in the store."""

    def test_two_workers(self) -> None:
        """What one worker noted another one knows after loading it, and the first one counts it once."""
        first, second, store = Learned(), Learned(), dict[str, int]()
        for number in range(30):
            for field, count in first.note(CELL, LOCAL, number % 3 == 0, 1, DAY, prior=0.7, key="k").items():
                store[field] = store.get(field, 0) + count
        for worker in (first, second):
            worker.load({DAY: store}, DAY)
        assert first.chance(CELL, LOCAL, 0.7) == second.chance(CELL, LOCAL, 0.7)
        assert first.evidence(CELL, LOCAL).all == 30

    def test_wanted(self) -> None:
        """At first all days are read, then today and yesterday, and a new day when it comes."""
        learned = Learned()
        days = learned.wanted(DAY)
        assert (days[0], len(days)) == (DAY, 56)
        learned.load({day: {} for day in days}, DAY)
        assert learned.wanted(DAY) == [DAY, DAY - 1]
        assert learned.wanted(DAY + 3) == [DAY + 3, DAY + 2, DAY + 1]

    def test_days_that_were_not_read_stay(self) -> None:
        """Loading today leaves the days before it."""
        learned = Learned()
        noted(learned, 10, 0, day=DAY - 5)
        learned.load({DAY: {}, DAY - 1: {}}, DAY)
        assert learned.evidence(CELL, LOCAL).all == pytest.approx(10 * 0.5 ** (5 / 14))

    @pytest.mark.parametrize("field", [
        "", "debug", f"{CELL} ok", f"{CELL} ok ", f"nonsense ok {LOCAL}", f"{CELL} maybe {LOCAL}", "other",
    ])
    def test_strange_fields(self, field: str) -> None:
        """Fields of another version, and what the store summed up as `other`, are skipped."""
        learned = Learned()
        learned.load({DAY: {field: 50}}, DAY)
        assert list(learned.pairs()) == []

    def test_half_a_count(self) -> None:
        """Outcomes whose promise the store had no room for are no evidence, and negative counts are none."""
        learned = Learned()
        learned.load({DAY: {f"{CELL} ok {LOCAL}": 50, f"{CELL} bad {LOCAL}": -7}}, DAY)
        assert learned.chance(CELL, LOCAL, 0.7).mean == pytest.approx(0.7)


class TestExploring:
    """A small share of requests tries the other side."""

    def test_share(self) -> None:
        """About the share explores, and the same request always does the same."""
        rids = [f"{number:032x}" for number in range(20_000)]
        assert 0.015 < sum(explores(rid, 0.02) for rid in rids) / len(rids) < 0.025
        assert [explores(rid, 0.02) for rid in rids[:500]] == [explores(rid, 0.02) for rid in rids[:500]]

    def test_limits(self) -> None:
        """No share explores nothing, the whole share everything."""
        assert not any(explores(str(number), 0.0) for number in range(1_000))
        assert all(explores(str(number), 1.0) for number in range(1_000))


def simulated(days: int, per_day: int, explore: float, truth: dict[int, float], seed: int) -> list[str]:
    """Route a cell by gain in chance, against a price worth 0.1 of a success; return where each request went.

    The local backend succeeds as `truth` says from each day on, the cloud in 93 of 100. Half of all failures show.
    """
    chance, learned, went = random.Random(seed), Learned(), list[str]()
    good = truth[0]
    for number in range(days * per_day):
        day = number // per_day
        good = truth.get(day, good)
        if number % per_day == 0:
            learned.load({}, DAY + day)
        local, cloud = learned.chance(CELL, LOCAL, 0.86).mean, learned.chance(CELL, CLOUD, 0.93).mean
        other = explores(f"{seed}-{number}", explore)
        backend = CLOUD if (cloud - local > 0.1) != other else LOCAL
        shows = chance.random() >= (good if backend == LOCAL else 0.93) and chance.random() < 0.5
        learned.note(CELL, backend, not shows, 2 if shows else 1, DAY + day, prior=0.86 if backend == LOCAL else 0.93,
                     key=f"k{number % 10}")
        went.append(backend)
    return went


class TestSimulation:
    """A cell whose local backend is not what the prior promised, and a world that changes."""

    def test_moves_to_the_cloud(self) -> None:
        """Where the local backend fails in 60 of 100, a cell that began there is at the cloud within 50 outcomes."""
        runs = [simulated(1, 200, 0.0, {0: 0.4}, seed) for seed in range(40)]
        assert {went[0] for went in runs} == {LOCAL}
        assert all(CLOUD in went[:30] for went in runs)
        assert sum(went[50:].count(CLOUD) for went in runs) > 0.98 * 40 * 150

    def test_stays_where_it_is_good(self) -> None:
        """Bad luck can move a good cell away, but a share of 2 % that explores brings it back and keeps it."""
        runs = [simulated(35, 60, 0.02, {0: 0.95}, seed) for seed in range(10)]
        assert sum(went[-420:].count(LOCAL) for went in runs) > 0.93 * 10 * 420

    @pytest.mark.parametrize("seed", range(4))
    def test_recovers(self, seed: int) -> None:
        """When the local backend gets good, a share of 5 % that explores brings the cell back within 30 days."""
        went = simulated(45, 60, 0.05, {0: 0.4, 10: 0.97}, seed)
        assert went[480:600].count(CLOUD) > 100
        assert went[-300:].count(LOCAL) > 265

    @pytest.mark.parametrize("seed", range(4))
    def test_recovers_by_forgetting(self, seed: int) -> None:
        """Without exploring, what was learnt fades: a failing backend is tried now and then, a mended one stays."""
        went = simulated(100, 20, 0.0, {0: 0.4, 40: 0.97}, seed)
        assert went[100:800].count(LOCAL) < 35
        assert went[-200:].count(LOCAL) > 190


class TestVisibility:
    """Why only requests that were weighed are counted as their answers look (docs/learning.md)."""

    @pytest.mark.parametrize(("shown", "believed"), [(0.5, 0.66), (0.2, 0.83)])
    def test_what_shows(self, shown: float, believed: float) -> None:
        """The weights of failures make up for one in two that nobody sees; were it one in five, a backend that is good
        in 66 of 100 would look far better."""
        learned, bad = Learned(), round(200 * 0.34 * shown)
        for number in range(200):
            weight = 2 + number % 2 if number < bad else 1
            learned.note(CELL, LOCAL, number >= bad, weight, DAY, prior=0.66, key=str(number))
        assert abs(learned.chance(CELL, LOCAL, 0.66).mean - believed) < 0.01


class TestConfig:
    """`learning:` in gateway.yaml."""

    def test_defaults(self) -> None:
        """On, with a half-life of two weeks, a prior of twenty outcomes, and no exploring."""
        found = LearningConfig.model_validate({})
        assert (found.enabled, found.half_life, found.prior_weight, found.explore) == (True, 14.0, 20, 0.0)

    @pytest.mark.parametrize(("given", "days"), [("14d", 14.0), ("36h", 1.5), ("2w", 14.0), ("6h", 0.25)])
    def test_half_life(self, given: str, days: float) -> None:
        """A half-life is given in hours, days or weeks."""
        assert LearningConfig.model_validate({"half_life": given}).half_life == days

    @pytest.mark.parametrize(("given", "enabled"), [("off", False), (False, False), ("on", True), (True, True)])
    def test_switch(self, given: object, enabled: bool) -> None:
        """`learning: off` is the whole switch."""
        assert LearningConfig.model_validate(given).enabled is enabled

    @pytest.mark.parametrize("given", [
        {"half_life": 14}, {"half_life": "0d"}, {"half_life": "999d"}, {"half_life": "1m"}, {"half_life": "5h"},
        {"prior_weight": 0}, {"prior_weight": "20"}, {"prior_weight": float("nan")}, {"explore": "200%"},
        {"explore": True}, {"enabled": "yes"}, {"halflife": "14d"}, "maybe", 3, [],
    ])
    def test_refused(self, given: object) -> None:
        """Anything else is an error."""
        with pytest.raises(ValueError, match="validation error"):
            LearningConfig.model_validate(given)

    def test_explore(self) -> None:
        """The share that explores is written in per cent."""
        assert LearningConfig.model_validate({"explore": "2%"}).explore == 0.02
