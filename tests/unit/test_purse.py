"""The purse: what a worker dispatches without the store has a bound in dollars, in requests and in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.money.amounts import Need, Option
from extproc.money.purse import Allowance, Purse

NOW = 1_790_000_000_000
SOME = Allowance(1000, 3, 60_000)


def test_dollars_are_bounded() -> None:
    """Bounds are taken before the dispatch; what does not fit is refused, and takes nothing."""
    purse = Purse()
    assert purse.take(Need(600), SOME, NOW)
    assert not purse.take(Need(401), SOME, NOW)
    assert purse.take(Need(400), SOME, NOW)
    assert purse.room(SOME, NOW) == 0
    assert purse.take(Need(0), SOME, NOW), "what costs nothing needs no money"


def test_requests_are_bounded() -> None:
    """As many dispatches as are allowed, whatever they cost, and also when they have ended."""
    purse = Purse()
    for _ in range(3):
        assert purse.take(Need(0), SOME, NOW)
        purse.end(Need(0), 0)
    assert purse.room(SOME, NOW) is None
    assert not purse.take(Need(0), SOME, NOW)


@pytest.mark.parametrize(("later", "open_"), [(0, True), (59_999, True), (60_000, False), (10**9, False), (-1, False)])
def test_time_is_bounded(later: int, open_: bool) -> None:
    """From the first dispatch on the purse is open for so long; a clock that is set back closes it."""
    purse = Purse()
    assert purse.room(SOME, NOW - 10**9) == 1000, "unused, it does not age"
    purse.take(Need(1), SOME, NOW)
    assert (purse.room(SOME, NOW + later) is not None) == open_
    assert purse.take(Need(1), SOME, NOW + later) == open_


def test_what_was_not_used_comes_back() -> None:
    """An attempt's end gives back its bound and takes its cost; an unknown cost is the bound."""
    purse = Purse()
    purse.take(Need(600), SOME, NOW)
    purse.end(Need(600), 100)
    assert purse.room(SOME, NOW) == 900
    purse.take(Need(500), SOME, NOW)
    purse.end(Need(500), None)
    assert purse.room(SOME, NOW) == 400


def test_a_bill_above_the_bound_empties_it() -> None:
    """What a provider bills beyond the bound is taken too."""
    purse = Purse()
    purse.take(Need(600), SOME, NOW)
    purse.end(Need(600), 5000)
    assert purse.room(SOME, NOW) == 0


def test_refill_leaves_what_runs() -> None:
    """When the store has what ended, the purse is full again but for what still runs; its time begins anew."""
    purse = Purse()
    purse.take(Need(600), SOME, NOW)
    purse.take(Need(300), SOME, NOW)
    purse.end(Need(300), 300)
    purse.refill()
    assert purse.since is None
    assert purse.room(SOME, NOW + 10**9) == 400
    purse.end(Need(600), 0)
    assert purse.room(SOME, NOW + 10**9) == 1000


def test_what_a_dead_worker_took_stays_taken() -> None:
    """A worker that follows a dead one has what that left of its purse, until the store has everything."""
    purse = Purse()
    purse.inherit(2, 700, NOW)
    assert not purse.take(Need(301), SOME, NOW)
    assert purse.take(Need(300), SOME, NOW)
    assert not purse.take(Need(0), SOME, NOW), "the third dispatch was the last"
    purse.end(Need(300), 10)
    purse.refill()
    assert purse.room(SOME, NOW) == 1000


@pytest.mark.parametrize(("room", "options", "chosen"), [
    (1000, (Option(10, 50, 100, 10),), (1, 50)), (400, (Option(10, 50, 100, 10),), (1, 30)),
    (199, (Option(10, 50, 100, 10),), None), (200, (Option(10, 50, 100, 10),), (1, 10)),
    (50, (Option(10, 50, 100, 10), Option(1, 9, 0, 0)), (2, 9)), (0, (Option(1, 9, 0, 0),), (1, 9)),
    (99, (Option(0, 9, 100, 0),), None),
])
def test_options(room: int, options: tuple[Option, ...], chosen: tuple[int, int] | None) -> None:
    """The dearest option that fits, with the output that is affordable; one that costs nothing always does."""
    assert Purse().choose(options, Allowance(room, 1, 1000), NOW) == chosen


def test_a_closed_purse_chooses_nothing() -> None:
    """Without requests left not even a free option is taken."""
    assert Purse().choose((Option(),), Allowance(10, 0, 1000), NOW) is None


STEPS = st.lists(st.tuples(st.sampled_from("teer"), st.integers(0, 700), st.integers(0, 20)), max_size=60)


@given(STEPS)
def test_never_more_than_allowed(steps: list[tuple[str, int, int]]) -> None:
    """Between two refills, whatever happens: costs of what ended and bounds of what runs are within the allowance."""
    purse, running, spent, taken = Purse(), list[int](), 0, 0
    for what, amount, which in steps:
        if what == "t" and purse.take(Need(amount), SOME, NOW):
            running.append(amount)
            taken += 1
        elif what == "e" and running:
            need = running.pop(which % len(running))
            purse.end(Need(need), min(amount, need))
            spent += min(amount, need)
        elif what == "r":
            purse.refill()
            spent, taken = 0, len(running)
        assert sum(running) + spent <= SOME.nano_usd
        assert taken <= SOME.requests
