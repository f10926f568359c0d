"""Reservations with money: every operation of the protocol, over every store."""

from __future__ import annotations

import asyncio

import pytest

from extproc.ledger import memory_treasury, redis_treasury
from extproc.ledger.base import Settlement
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import Account, Crossing, LimitLeft, Option, Shortage, TrueUp, Unit
from extproc.pb import usage_pb2 as pb
from tests.contract.ledger_kit import (
    HOUR,
    OTHER_ROW,
    OVER,
    ROW,
    STARTED,
    Desk,
    Store,
    admission,
    attempt,
    budget,
    costs,
    gcra,
    make_rid,
    need,
    now_ms,
    usd,
    used,
)

BIG = 4_000_003_000_000_001
"""Above $4,000,000, where numbers that are written with 14 digits are wrong."""


class TestReserve:
    """What is granted, and what nothing is written for."""

    async def test_empty(self, ledger: Store, org: str) -> None:
        """A store without an epoch has lost its data (or never had any): EMPTY."""
        desk = Desk(ledger, org)
        assert (await desk.reserve(make_rid(), budgets=(usd(),))).code == "EMPTY"
        assert (await desk.windows()) == {}

    async def test_granted(self, desk: Desk) -> None:
        """What is granted is reserved in every budget in its unit, and told with the time and the rest."""
        budgets = (
            usd(),
            budget("tok", Unit.TOKENS, 500),
            budget("req", Unit.REQUESTS, 5),
            budget("con", Unit.CONCURRENT, 2),
        )
        option = Option(10, 100, 50, 3, 20, 1)
        grant = await desk.reserve(make_rid(), option, budgets=budgets)
        assert (grant.code, grant.option, grant.max_tokens, grant.sweep) == ("OK", 1, 100, False)
        assert abs(grant.time_ms - now_ms()) < 5000
        assert [(left.free, left.reserved, left.limit) for left in grant.budgets] == [
            (650, 350, 1000), (380, 120, 500), (4, 1, 5), (1, 1, 2),
        ]  # fmt: skip
        assert {name: state.reserved for name, state in (await desk.windows()).items()} == {
            "org": 350, "tok": 120, "req": 1, "con": 1,
        }  # fmt: skip

    async def test_same_grant(self, desk: Desk) -> None:
        """A repeated reserve gets the same grant and reserves nothing more, even when nothing is left."""
        rid, option = make_rid(), Option(1, 1000, 0, 1)
        first = await desk.reserve(rid, option, budgets=(usd(limit=600),))
        again = await desk.reserve(rid, option, budgets=(usd(limit=600),))
        assert first.max_tokens == again.max_tokens == 600
        assert (first.option, again.code, again.option) == (1, "OK", 1)
        assert await desk.state() == (0, 600, 0)

    async def test_duplicate_after_close(self, desk: Desk) -> None:
        """A duplicate that arrives after the close is GONE, reserves nothing and leaves one record."""
        rid = await desk.open(10, usd())
        await desk.store.finish(desk.org, rid)
        assert (await desk.reserve(rid, costs(10), budgets=(usd(),))).code == "GONE"
        assert await desk.state() == (0, 0, 0)
        assert await desk.states() == ["unsent"]

    async def test_delivered_days_late(self, desk: Desk) -> None:
        """A reserve whose id is older than tombstones live is GONE: nobody could tell whether it was closed."""
        old = make_rid(now_ms() - 49 * HOUR)
        assert (await desk.reserve(old, costs(10), budgets=(usd(),))).code == "GONE"
        assert await desk.windows() == {}

    async def test_stale(self, desk: Desk) -> None:
        """Under another epoch than the one in force nothing is granted."""
        old = desk.epoch
        await desk.publish()
        assert (await desk.reserve(make_rid(), costs(10), budgets=(usd(),), epoch=old)).code == "STALE"
        assert (await desk.reserve(make_rid(), costs(10), budgets=(usd(),), epoch=desk.epoch + 1)).code == "STALE"
        assert await desk.windows() == {}

    async def test_log_full(self, place: object, desk: Desk) -> None:
        """A stream at its cap closes admission; what is open still closes."""
        rid = await desk.open(10, usd())
        await desk.store.finish(desk.org, await desk.open(10, usd()))
        desk.store.longest_log = 1
        assert (await desk.reserve(make_rid(), costs(10), budgets=(usd(),))).code == "LOG_FULL"
        assert (await desk.store.finish(desk.org, rid))[0] == "DONE"

    async def test_window(self, desk: Desk) -> None:
        """Outside a budget's window the reply is the server's time, before and after it."""
        for start, end in ((STARTED - HOUR, now_ms() - 1), (now_ms() + HOUR, now_ms() + 2 * HOUR)):
            grant = await desk.reserve(make_rid(), costs(1), budgets=(usd("a"), usd("b", start_ms=start, end_ms=end)))
            assert grant.code == "WINDOW"
            assert abs(grant.time_ms - now_ms()) < 5000
        assert await desk.windows() == {}

    async def test_limit(self, desk: Desk) -> None:
        """A rate limit that does not fit refuses with its id and wait; neither it nor a budget is touched."""
        limits = (gcra("slow", burst=2), gcra("wide", burst=50))
        for _ in range(2):
            assert (await desk.reserve(make_rid(), costs(1), budgets=(usd(),), limits=limits)).code == "OK"
        grants = [await desk.reserve(make_rid(), costs(1), budgets=(usd(),), limits=limits) for _ in range(3)]
        assert {grant.code for grant in grants} == {"LIMIT"}
        assert {grant.blocked for grant in grants} == {"slow"}
        assert all(50_000 < grant.wait_ms <= 60_000 for grant in grants)  # a request per minute
        assert await desk.state() == (0, 2, 0)
        wide = await desk.reserve(make_rid(), costs(1), limits=(gcra("wide", burst=50),))
        assert wide.limits[0].remaining == 47

    async def test_most_that_fits(self, desk: Desk) -> None:
        """max_tokens is what the tightest budget can fund, at most what is wanted."""
        budgets = (usd(limit=1000), budget("tok", Unit.TOKENS, 333))
        grant = await desk.reserve(make_rid(), Option(1, 10_000, 100, 2, 33, 1), budgets=budgets)
        assert grant.max_tokens == 300
        assert (await desk.state(), await desk.state("tok")) == ((0, 700, 0), (0, 333, 0))

    async def test_options_dearest_first(self, desk: Desk) -> None:
        """The first option of which the least is funded is granted."""
        options = (Option(50, 100, 0, 30), Option(50, 100, 0, 15), Option(0, 100))
        grants = [await desk.reserve(make_rid(), *options, budgets=(usd(),)) for _ in range(2)]
        assert [(grant.option, grant.max_tokens) for grant in grants] == [(2, 66), (3, 100)]
        assert await desk.state() == (0, 990, 0)

    async def test_free_passes(self, desk: Desk) -> None:
        """An option that costs a budget nothing passes it, exhausted, over or of limit 0."""
        rid = await desk.open(1000, usd())
        await desk.end(rid, 1, 1500, usd())
        await desk.publish(org=100)
        for limit in (100, 0):
            grant = await desk.reserve(make_rid(), Option(1, 5, 0, 1), Option(1, 5), budgets=(usd(limit=limit),))
            assert (grant.code, grant.option, grant.max_tokens) == ("OK", 2, 5)
        assert await desk.state() == (1000, 0, 500)

    async def test_budget(self, desk: Desk) -> None:
        """When no option fits the tightest budget is named with what it has; nothing is written."""
        await desk.open(300, usd("a"), usd("b", 500))
        grant = await desk.reserve(
            make_rid(), Option(10, 20, 0, 90), Option(10, 20, 1, 40), budgets=(usd("a"), usd("b", 500)),
            limits=(gcra(),),
        )  # fmt: skip
        assert (grant.code, grant.blocked, grant.shortage) == ("BUDGET", "b", Shortage(401, 200, 300, 500))
        assert (await desk.state("a"), await desk.state("b")) == ((0, 300, 0), (0, 300, 0))
        fresh = await desk.reserve(make_rid(), costs(0), limits=(gcra(),))
        assert fresh.limits[0].remaining == 9

    async def test_pieces(self, desk: Desk) -> None:
        """Requests and concurrent requests are budgets as well: at the limit they refuse."""
        for name, unit in (("req", Unit.REQUESTS), ("con", Unit.CONCURRENT)):
            entry = budget(name, unit, 1)
            await desk.open(0, entry)
            grant = await desk.reserve(make_rid(), Option(), budgets=(entry,))
            assert (grant.code, grant.shortage) == ("BUDGET", Shortage(1, 0, 1, 1))

    async def test_expired_lease_is_told(self, desk: Desk) -> None:
        """The reply says whether a lease of the org is over."""
        await desk.open(1, usd(), lease=OVER)
        assert (await desk.reserve(make_rid(), costs(1), budgets=(usd(),))).sweep
        assert await desk.store.sweep(desk.org) == 1
        assert not (await desk.reserve(make_rid(), costs(1), budgets=(usd(),))).sweep

    async def test_keys_expire(self, desk: Desk) -> None:
        """A window's key lives until its end and keep time, also when later calls touch it."""
        rid = await desk.open(10, usd())
        await desk.open(10, usd(limit=900))
        await desk.end(rid, 1, 5, usd())
        if isinstance(desk.store, RedisTreasury):
            left = await desk.store.door.call(("PTTL", f"{{{desk.org}}}:b:{usd().window}"))
            assert 0 < left <= usd().until_ms + 1000 - STARTED

    async def test_without_money(self, desk: Desk) -> None:
        """Calls without ask, need and account go on as before beside those with money."""
        rid = make_rid()
        assert await desk.store.reserve(desk.org, rid, admission(rid)) == "OK"
        assert await desk.store.begin(desk.org, rid, 1, need(1)) == "OK"
        assert await desk.store.end(desk.org, rid, 1, used(1, 9), final=True) == "DONE"
        assert [record.delta_nano_usd for record in await desk.records()] == [9]


class TestBegin:
    """Dispatch is announced, and topped up."""

    async def test_gone(self, desk: Desk) -> None:
        """No dispatch without a reservation, after finish, after expiry, after the attempt's own end."""
        assert (await desk.begin(make_rid(), 1, 5)).code == "GONE"
        finished = await desk.open(10, usd())
        await desk.begin(finished, 1, 5)
        await desk.store.finish(desk.org, finished)
        assert (await desk.begin(finished, 2, 5)).code == "GONE"
        expired = await desk.open(10, usd())
        await desk.begin(expired, 1, 5, lease=OVER)
        await desk.store.expire(desk.org, expired)
        assert (await desk.begin(expired, 2, 5)).code == "GONE"
        ended = await desk.open(10, usd())
        await desk.end(ended, 1, 5, final=False)
        assert (await desk.begin(ended, 1, 5)).code == "GONE"

    async def test_within_the_hold(self, desk: Desk) -> None:
        """A need that the hold covers changes no budget, and a repeat is OK."""
        rid = await desk.open(10, usd())
        for _ in range(2):
            assert (await desk.begin(rid, 1, 10, 10)).code == "OK"
        assert await desk.state() == (0, 10, 0)

    async def test_top_up(self, desk: Desk) -> None:
        """A second attempt tops up every budget of the unit by what is missing; repeated, not again."""
        budgets = (usd("a"), usd("b"), budget("tok", Unit.TOKENS, 1000))
        rid = await desk.open(100, *budgets)
        await desk.begin(rid, 1, 100, 100)
        for _ in range(2):
            assert (await desk.begin(rid, 2, 70, 30)).code == "OK"
        assert [await desk.state(name) for name in ("a", "b", "tok")] == [(0, 170, 0), (0, 170, 0), (0, 130, 0)]

    async def test_all_or_nothing(self, desk: Desk) -> None:
        """A top-up that one budget refuses touches none, opens nothing, and tells what is free there."""
        rid = await desk.open(100, usd("a"), usd("b", 150))
        await desk.begin(rid, 1, 100)
        refused = await desk.begin(rid, 2, 60)
        assert (refused.code, refused.blocked, refused.short, refused.free) == ("BUDGET", "b", 60, 50)
        assert (refused.reserved, refused.limit) == (100, 150)
        assert [await desk.state(name) for name in ("a", "b")] == [(0, 100, 0), (0, 100, 0)]
        assert (await desk.begin(rid, 2, 50)).code == "OK"  # a shorter answer is affordable

    async def test_paid_attempt_is_topped_up(self, desk: Desk) -> None:
        """What attempt 1 spent is no longer there for attempt 2."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 100)
        await desk.end(rid, 1, 30, usd(), final=False)
        assert await desk.state() == (30, 70, 0)
        await desk.begin(rid, 2, 100)
        assert await desk.state() == (30, 100, 0)
        assert (await desk.end(rid, 2, 100, usd())).code == "DONE"
        assert await desk.state() == (130, 0, 0)
        await desk.check_rest()

    async def test_free_attempt_needs_no_top_up(self, desk: Desk) -> None:
        """What a failed attempt did not cost stays held for the next one."""
        rid = await desk.open(1000, usd())
        for number in (1, 2, 3):
            assert (await desk.begin(rid, number, 1000)).code == "OK"
            await desk.end(rid, number, 0, usd(), final=False)
        assert await desk.state() == (0, 1000, 0)

    async def test_admission_windows_after_a_roll(self, desk: Desk) -> None:
        """Top-ups and charges go to the windows of the admission, also when those are over."""
        short = usd(end_ms=now_ms() + 400)
        rid = await desk.open(100, short)
        await asyncio.sleep(0.45)
        await desk.begin(rid, 1, 160)
        assert await desk.state() == (0, 160, 0)
        await desk.end(rid, 1, 150, short)
        assert await desk.state() == (150, 0, 0)

    async def test_lease_is_renewed(self, desk: Desk) -> None:
        """A begin renews the lease."""
        rid = await desk.open(10, usd(), lease=OVER)
        await desk.begin(rid, 1, 10)
        assert await desk.store.expire(desk.org, rid) == "LIVE"


class TestEnd:
    """Settlement: exactly once, funded or shown as debt."""

    async def test_done(self, desk: Desk) -> None:
        """The cost is spent, the rest released; the record tells delta, option, grant and windows."""
        budgets = (usd(), budget("tok", Unit.TOKENS, 500), budget("req", Unit.REQUESTS, 5),
                   budget("con", Unit.CONCURRENT, 2))  # fmt: skip
        rid = make_rid()
        await desk.reserve(rid, Option(1, 20, 1, 10, 30, 1), budgets=budgets)
        await desk.begin(rid, 1, 201, 50)
        assert (await desk.end(rid, 1, 120, *budgets, tokens=40)).code == "DONE"
        states = {name: (state.spent, state.reserved) for name, state in (await desk.windows()).items()}
        assert states == {"org": (120, 0), "tok": (40, 0), "req": (1, 0), "con": (0, 0)}
        (record,) = await desk.records()
        assert (record.delta_nano_usd, record.delta_tokens, record.unfunded_nano_usd) == (120, 40, 0)
        assert (record.option, record.max_tokens) == (1, 20)
        assert list(record.budgets) == [entry.window for entry in budgets]
        await desk.check_rest()

    async def test_without_account(self, desk: Desk) -> None:
        """An end that brings no budgets charges those of the reservation all the same."""
        rid = await desk.open(100, usd("a"), usd("b"))
        assert await desk.store.end(desk.org, rid, 1, used(1, 40), final=True) == "DONE"
        assert [await desk.state(name) for name in ("a", "b")] == [(40, 0, 0), (40, 0, 0)]

    async def test_wrong_account(self, desk: Desk) -> None:
        """An end that brings other budgets than were reserved charges the reserved ones."""
        rid = await desk.open(100, usd("a"))
        assert (await desk.end(rid, 1, 40, usd("z"), usd("y"))).code == "DONE"
        assert {name: state.spent for name, state in (await desk.windows()).items()} == {"a": 40}

    async def test_repeats(self, desk: Desk) -> None:
        """Each end counts once, before the close and after it."""
        rid = await desk.open(100, usd())
        codes = [(await desk.end(rid, n, 30, usd(), final=n == 2)).code for n in (1, 1, 2, 2, 1)]
        assert codes == ["OPEN", "DUP", "DONE", "DUP", "DUP"]
        assert await desk.state() == (60, 0, 0)
        await desk.check_rest()

    async def test_open_needs_stay_held(self, desk: Desk) -> None:
        """A final end releases all but what open attempts need; the last end releases that."""
        rid = await desk.open(300, usd())
        await desk.begin(rid, 1, 100)
        await desk.begin(rid, 2, 150)
        assert (await desk.end(rid, 2, 80, usd(), final=True)).code == "OPEN"
        assert await desk.state() == (80, 100, 0)
        assert (await desk.end(rid, 1, 100, usd(), final=False)).code == "DONE"
        assert await desk.state() == (180, 0, 0)
        await desk.check_rest()

    async def test_excess_is_funded(self, desk: Desk) -> None:
        """A cost above the hold is spent where the budget has room."""
        rid = await desk.open(100, usd())
        ended = await desk.end(rid, 1, 400, usd())
        assert (ended.code, ended.unfunded_nano_usd) == ("DONE", 0)
        assert await desk.state() == (400, 0, 0)

    async def test_debt(self, desk: Desk) -> None:
        """What no budget can fund is debt outside spent; it is told, recorded, and blocks admission."""
        rid, other = await desk.open(100, usd()), await desk.open(500, usd())
        ended = await desk.end(rid, 1, 1200, usd())
        assert ended.unfunded_nano_usd == 700
        assert await desk.state() == (500, 500, 700)
        (record,) = await desk.records()
        assert (record.delta_nano_usd, record.unfunded_nano_usd) == (1200, 700)
        await desk.store.finish(desk.org, other)
        refused = await desk.reserve(make_rid(), costs(1), budgets=(usd(),))
        assert (refused.code, refused.shortage) == ("BUDGET", Shortage(1, -200, 0, 1000))
        await desk.check_rest()

    async def test_debt_is_paid_back_first(self, desk: Desk) -> None:
        """A downward correction lowers debt before it lowers spent."""
        rid = await desk.open(1000, usd())
        await desk.begin(rid, 1, 1000, lease=OVER)
        await desk.store.expire(desk.org, rid)
        bad = await desk.open(0, usd())
        await desk.end(bad, 1, 300, usd())
        assert await desk.state() == (1000, 0, 300)
        assert (await desk.end(rid, 1, 600, usd())).code == "LATE"
        assert await desk.state() == (900, 0, 0)
        await desk.check_rest()

    async def test_orphan(self, desk: Desk) -> None:
        """An end without a reservation is charged once to the budgets it names, unfunded parts as debt."""
        rid, budgets = make_rid(), (usd(limit=100), budget("tok", Unit.TOKENS, 50), budget("req", Unit.REQUESTS, 9),
                                    budget("con", Unit.CONCURRENT, 9))  # fmt: skip
        ended = await desk.end(rid, 1, 130, *budgets, tokens=20)
        assert (ended.code, ended.unfunded_nano_usd) == ("ORPHAN", 30)
        assert (await desk.end(rid, 1, 130, *budgets, tokens=20)).code == "DUP"
        states = {name: (state.spent, state.reserved, state.debt) for name, state in (await desk.windows()).items()}
        assert states == {"org": (100, 0, 30), "tok": (20, 0, 0), "req": (1, 0, 0)}
        (record,) = await desk.records()
        assert (record.state, record.delta_nano_usd, record.unfunded_nano_usd) == ("orphan", 130, 30)
        await desk.check_rest()

    async def test_too_old(self, desk: Desk) -> None:
        """Beyond the horizon an end without a trace changes nothing."""
        old = make_rid(now_ms() - 49 * HOUR)
        assert (await desk.end(old, 1, 10, usd())).code == "TOO_OLD"
        assert await desk.store.end(desk.org, old, 1, used(1), final=True) == "TOO_OLD"
        assert (await desk.records(), await desk.windows()) == ([], {})

    async def test_keep_time_is_over(self, desk: Desk) -> None:
        """After its keep time a window is skipped and not made again; the ledger still has the charge."""
        gone, here = usd("gone", end_ms=now_ms() + 400, keep_ms=0), usd()
        rid = await desk.open(100, gone, here)
        await desk.begin(rid, 1, 100)
        await asyncio.sleep(0.45)
        late = make_rid()
        assert (await desk.end(rid, 1, 40, gone, here)).code == "DONE"
        assert (await desk.end(late, 1, 40, gone, here)).code == "ORPHAN"
        assert set(await desk.windows()) == {"org"}
        assert await desk.state() == (80, 0, 0)
        await asyncio.sleep(1.1)
        if isinstance(desk.store, RedisTreasury):
            assert await desk.store.door.call(("EXISTS", f"{{{desk.org}}}:b:{gone.window}")) == 0
        await desk.check_rest()

    async def test_unknown_price(self, desk: Desk) -> None:
        """An unknown cost charges no dollars, but its tokens; late, it leaves the charged need in place."""
        budgets = (usd(), budget("tok", Unit.TOKENS, 500))
        rid = await desk.open(100, *budgets)
        await desk.end(rid, 1, None, *budgets, tokens=30)
        assert (await desk.state(), await desk.state("tok")) == ((0, 0, 0), (30, 0, 0))
        stalled = await desk.open(100, *budgets)
        await desk.begin(stalled, 1, 60, 60, lease=OVER)
        await desk.store.expire(desk.org, stalled)
        assert (await desk.end(stalled, 1, None, *budgets, tokens=10)).code == "LATE"
        assert (await desk.state(), await desk.state("tok")) == ((60, 0, 0), (40, 0, 0))
        await desk.check_rest()

    async def test_soft_limits(self, desk: Desk) -> None:
        """The end that crosses 75 or 95 % tells it; those before, after and repeated do not."""
        told = []
        for cost in (700, 50, 100, 100, 10):
            rid = await desk.open(cost, usd())
            told.append([(c.budget, c.percent) for c in (await desk.end(rid, 1, cost, usd())).crossed])
            assert (await desk.end(rid, 1, cost, usd())).crossed == ()
        assert told == [[], [("org", 75)], [], [("org", 95)], []]

    async def test_crossed_by_the_sweep(self, desk: Desk) -> None:
        """A soft limit that an expiry crosses is told to the ledger's listener."""
        told: list[tuple[str, tuple[Crossing, ...]]] = []
        desk.store._on_crossed = lambda org, crossed: told.append((org, crossed))  # pyright: ignore
        rid = await desk.open(990, usd())
        await desk.begin(rid, 1, 990, lease=OVER)
        await desk.store.sweep(desk.org)
        assert told == [(desk.org, (Crossing(usd().window, 75), Crossing(usd().window, 95)))]

    async def test_amounts_are_exact(self, desk: Desk) -> None:
        """Sums above $4,000,000 are exact to the nano-dollar, in budgets, records and rollups."""
        big = usd(limit=2**53 - 1)
        first, second = await desk.open(BIG, big), await desk.open(BIG, big)
        assert await desk.state() == (0, 2 * BIG, 0)
        await desk.begin(first, 1, BIG)
        await desk.end(first, 1, BIG - 1, big)
        await desk.begin(second, 1, BIG, lease=OVER)
        await desk.store.expire(desk.org, second)
        assert await desk.state() == (2 * BIG - 1, 0, 0)
        assert (await desk.end(second, 1, 3, big)).code == "LATE"
        assert await desk.state() == (BIG + 2, 0, 0)
        assert [r.delta_nano_usd for r in await desk.records()] == [BIG - 1, BIG, 3 - BIG]
        await desk.check_rest()

    @pytest.mark.parametrize("delta", [1, 63, 64, 8191, 8192, 2**31, 2**52, 2**53 - 1])
    async def test_deltas_of_any_size(self, desk: Desk, delta: int) -> None:
        """The record that is built by hand is valid at every length of its numbers, negative ones too."""
        rid = await desk.open(delta, usd(limit=2**53 - 1))
        await desk.begin(rid, 1, delta, delta, lease=OVER)
        await desk.store.expire(desk.org, rid)
        await desk.end(rid, 1, 0, usd(limit=2**53 - 1), tokens=3)
        seen = [(r.delta_nano_usd, r.delta_tokens) for r in await desk.records()]
        assert seen == [(delta, delta), (-delta, 3 - delta)]
        assert await desk.state() == (0, 0, 0)


class TestClosing:
    """finish, renew, expire."""

    async def test_finish_unsent(self, desk: Desk) -> None:
        """finish before any attempt releases all: charge 0, no request spent."""
        budgets = (usd(), budget("req", Unit.REQUESTS, 5), budget("con", Unit.CONCURRENT, 5))
        rid = await desk.open(100, *budgets)
        assert await desk.store.finish(desk.org, rid) == ("DONE", [])
        assert {(state.spent, state.reserved) for state in (await desk.windows()).values()} == {(0, 0)}
        (record,) = await desk.records()
        assert (record.state, record.delta_nano_usd) == ("unsent", 0)

    async def test_finish_after_failures(self, desk: Desk) -> None:
        """finish after failed attempts keeps what was paid and spends the request."""
        budgets = (usd(), budget("req", Unit.REQUESTS, 5))
        rid = await desk.open(100, *budgets)
        await desk.begin(rid, 1, 60)
        await desk.end(rid, 1, 20, *budgets, final=False)
        assert await desk.store.finish(desk.org, rid) == ("DONE", [attempt(1)])
        assert await desk.store.finish(desk.org, rid) == ("DUP", [])
        assert (await desk.state(), await desk.state("req")) == ((20, 0, 0), (1, 0, 0))
        await desk.check_rest()

    async def test_finish_while_open(self, desk: Desk) -> None:
        """finish waits for the open attempt, whose end then closes."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 60)
        assert (await desk.store.finish(desk.org, rid))[0] == "OPEN"
        assert await desk.state() == (0, 100, 0)
        assert (await desk.end(rid, 1, 60, usd(), final=False)).code == "DONE"
        await desk.check_rest()

    async def test_expire_charges_open_needs(self, desk: Desk) -> None:
        """Expiry charges the need of what is open, keeps what was paid, releases the rest, frees the slot."""
        budgets = (usd(), budget("tok", Unit.TOKENS, 500), budget("req", Unit.REQUESTS, 5),
                   budget("con", Unit.CONCURRENT, 5))  # fmt: skip
        rid = await desk.open(300, *budgets)
        await desk.begin(rid, 1, 100, 10)
        await desk.end(rid, 1, 40, *budgets, final=False, tokens=7)
        await desk.begin(rid, 2, 150, 20, row=OTHER_ROW, lease=OVER)
        assert await desk.store.expire(desk.org, rid) == "DONE"
        states = {name: (state.spent, state.reserved) for name, state in (await desk.windows()).items()}
        assert states == {"org": (190, 0), "tok": (27, 0), "req": (1, 0), "con": (0, 0)}
        (record,) = await desk.records()
        assert (record.state, record.delta_nano_usd, record.delta_tokens) == ("expired", 190, 27)
        await desk.check_rest()
        rows = {row["backend"]: (row["requests"], row["cost"]) for row in await desk.store.rollups(desk.org, ROW.day)}
        assert rows == {"local": (0, 40), "openai": (1, 150)}

    async def test_expire_unsent_and_closed(self, desk: Desk) -> None:
        """Without an open attempt expiry charges nothing new: unsent or closed."""
        await desk.open(100, usd(), lease=OVER)
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 60, lease=OVER)
        await desk.end(rid, 1, 25, usd(), final=False)
        assert await desk.store.sweep(desk.org) == 2
        assert sorted(await desk.states()) == ["closed", "unsent"]
        assert await desk.state() == (25, 0, 0)
        await desk.check_rest()

    async def test_renewed_in_time(self, desk: Desk) -> None:
        """A renewal that comes between the sweep's reading and its script saves the reservation."""
        rid = await desk.open(100, usd(), lease=OVER)
        await desk.store.renew(desk.org, [rid])
        assert await desk.store.expire(desk.org, rid) == "LIVE"
        assert await desk.state() == (0, 100, 0)

    async def test_late(self, desk: Desk) -> None:
        """Ends after the expiry correct it by actual − charged, up and down, once per open attempt."""
        rid = await desk.open(300, usd())
        await desk.begin(rid, 1, 100)
        await desk.begin(rid, 2, 100, lease=OVER)
        await desk.store.expire(desk.org, rid)
        codes = [(await desk.end(rid, n, cost, usd())).code for n, cost in ((1, 30), (1, 30), (2, 160), (2, 1), (3, 5))]
        assert codes == ["LATE", "DUP", "LATE", "DUP", "DUP"]
        assert [(r.state, r.delta_nano_usd) for r in await desk.records()] == [
            ("expired", 200), ("late", -70), ("late", 60),
        ]  # fmt: skip
        assert await desk.state() == (190, 0, 0)
        await desk.check_rest()


class TestOperators:
    """publish, adjust, note, audit."""

    async def test_compare_and_set(self, desk: Desk) -> None:
        """A table is put in force only over the epoch it was made for; the loser learns the epoch in force."""
        first = desk.epoch
        published = await desk.store.publish(desk.org, b"two", first, {})
        assert (published.code, published.epoch) == ("OK", first + 1)
        stale = await desk.store.publish(desk.org, b"three", first, {})
        assert (stale.code, stale.epoch) == ("STALE", first + 1)
        assert await desk.store.table(desk.org) == (first + 1, b"two")

    async def test_epochs_do_not_come_again(self, desk: Desk) -> None:
        """The first epoch of an empty store is its time: none from before a loss is valid after it."""
        assert abs(desk.epoch - now_ms()) < 60_000
        assert await desk.store.table("never-published") == (0, b"")

    async def test_publish_writes_limits(self, desk: Desk) -> None:
        """Existing windows of changed budgets get the new limit at once, others keep theirs."""
        rid = await desk.open(100, usd("a"), usd("b"))
        await desk.publish(a=300)
        assert {name: state.limit for name, state in (await desk.windows()).items()} == {"a": 300, "b": 1000}
        ended = await desk.end(rid, 1, 500, usd("a"), usd("b"))
        assert ended.unfunded_nano_usd == 200

    async def test_publish_for_each_one(self, desk: Desk) -> None:
        """A lowered budget for each one lowers the windows of all of them, and none of a budget whose id looks alike."""
        web, named, zoned = usd("team.all.usd.month.aa"), usd("team.aa.usd.month"), usd("team.aa.usd.month.bb")
        rid = await desk.open(100, web, named, zoned)
        await desk.publish(**{"team.all.usd.month": 150, "team.aa.usd.month": 400})
        assert {name: state.limit for name, state in (await desk.windows()).items()} == {
            web.id: 150, named.id: 400, zoned.id: 1000}
        begun = await desk.begin(rid, 1, 300)
        assert (begun.code, begun.blocked, begun.free) == ("BUDGET", web.id, 50)
        assert await desk.state(web.id) == (0, 100, 0)

    async def test_adjust(self, desk: Desk) -> None:
        """A correction counts once per id, up and down, with a record of its own."""
        ids = [make_rid(), make_rid()]
        for nano_usd, adjust_id in ((400, ids[0]), (-150, ids[1]), (400, ids[0])):
            adjusted = await desk.store.adjust(desk.org, adjust_id, b"", ROW, (usd(),), nano_usd)
        assert adjusted.code == "DUP"
        assert await desk.state() == (250, 0, 0)
        assert [(r.state, r.delta_nano_usd) for r in await desk.records()] == [("adjust", 400), ("adjust", -150)]
        await desk.check_rest()
        assert await desk.row_requests() == 0

    async def test_adjust_limits(self, desk: Desk) -> None:
        """A correction beyond the limit is debt; one below zero or too old changes nothing."""
        over = await desk.store.adjust(desk.org, make_rid(), b"", ROW, (usd(),), 1200)
        assert (over.code, over.unfunded_nano_usd) == ("DONE", 200)
        below = await desk.store.adjust(desk.org, make_rid(), b"", ROW, (usd(),), -1201)
        old = await desk.store.adjust(desk.org, make_rid(now_ms() - 49 * HOUR), b"", ROW, (usd(),), -1)
        assert (below.code, old.code) == ("BELOW_ZERO", "TOO_OLD")
        assert await desk.state() == (1000, 0, 200)
        await desk.check_rest()

    async def test_adjust_tokens(self, desk: Desk) -> None:
        """Dollars and tokens are corrected each in their budgets."""
        budgets = (usd(), budget("tok", Unit.TOKENS, 100))
        await desk.store.adjust(desk.org, make_rid(), b"", ROW, budgets, 5, 7)
        assert (await desk.state(), await desk.state("tok")) == ((5, 0, 0), (7, 0, 0))

    async def test_note(self, desk: Desk) -> None:
        """A cache hit is recorded once, counts as a request and for rate limits, and costs nothing."""
        rid, limits = make_rid(), (gcra(burst=1),)
        codes = [
            (await desk.store.note(desk.org, given, admission(given), ROW, limits)).code
            for given in (rid, rid, make_rid(), make_rid(now_ms() - 49 * HOUR))
        ]
        assert codes == ["DONE", "DUP", "LIMIT", "TOO_OLD"]
        assert [(r.state, r.delta_nano_usd) for r in await desk.records()] == [("cached", 0)]
        assert (await desk.row_requests(), await desk.row_cost()) == (1, 0)
        assert (await desk.reserve(rid, costs(1))).code == "GONE"
        desk.store.longest_log = 1
        assert (await desk.store.note(desk.org, make_rid(), b"", ROW)).code == "LOG_FULL"

    async def test_audit(self, desk: Desk) -> None:
        """An audit shows all windows, open reservations and records of one moment."""
        rid = await desk.open(100, usd("a"), usd("b", 300))
        await desk.end(rid, 1, 30, usd("a"), usd("b", 300), final=False)
        await desk.store.finish(desk.org, await desk.open(10, usd("a")))
        audit = await desk.store.audit(desk.org)
        assert (audit.epoch, audit.open, audit.records) == (desk.epoch, 1, 1)
        states = [(w.window, w.spent, w.reserved, w.debt, w.limit) for w in audit.windows]
        assert states == [(usd("a").window, 30, 70, 0, 1000), (usd("b").window, 30, 70, 0, 300)]

    async def test_many_windows(self, desk: Desk) -> None:
        """Thousands of windows of a wildcard budget are published and audited at once."""
        count = 3000 if isinstance(desk.store, MemoryTreasury) else 9000
        names = [f"u{i}" for i in range(count)]
        for i in range(0, count, 100):
            await desk.open(1, *(usd(name) for name in names[i : i + 100]))
        await desk.publish(**dict.fromkeys(names, 5))
        audit = await desk.store.audit(desk.org)
        assert (len(audit.windows), {window.limit for window in audit.windows}) == (count, {5})


class TestRates:
    """Rate limits: exact waits, corrections, limits shared by all orgs."""

    async def test_waits_are_exact(self, desk: Desk) -> None:
        """A refused request fits when its wait is over, and not before."""
        limit = gcra(limit=1, burst=1, period=400)
        assert (await desk.reserve(make_rid(), costs(0), limits=(limit,))).code == "OK"
        grant = await desk.reserve(make_rid(), costs(0), limits=(limit,))
        assert grant.code == "LIMIT"
        due = grant.time_ms + grant.wait_ms
        while True:
            grant = await desk.reserve(make_rid(), costs(0), limits=(limit,))
            if grant.code == "OK":
                break
            assert grant.time_ms <= due  # times are told in whole milliseconds
            assert abs(grant.time_ms + grant.wait_ms - due) <= 1
            await asyncio.sleep(0.01)
        assert grant.time_ms >= due - 1

    async def test_cost_is_capped_at_the_burst(self, desk: Desk) -> None:
        """A request larger than the burst passes when all of the burst is there, and the true-up takes the rest."""
        limit = gcra("tpm", limit=3600, burst=10, cost=600)
        rid = make_rid()
        assert (await desk.reserve(rid, costs(0), limits=(limit,))).code == "OK"
        await desk.end(rid, 1, 0, true_ups=(TrueUp.of(limit, 600),))
        refused = await desk.reserve(make_rid(), costs(0), limits=(gcra("tpm", limit=3600, burst=10, cost=1),))
        assert refused.code == "LIMIT"
        assert 588_000 < refused.wait_ms <= 591_000  # 600 + 1 - 10 seconds

    async def test_true_up_gives_back(self, desk: Desk) -> None:
        """What was estimated and not used is there again, but never more than the burst."""
        limit = gcra("tpm", limit=3600, burst=100, cost=80)
        rid = make_rid()
        grant = await desk.reserve(rid, costs(0), limits=(limit,))
        assert grant.limits[0].remaining == 20
        assert 79_000 < grant.limits[0].reset_ms <= 80_000
        for _ in range(2):
            await desk.end(rid, 1, 0, true_ups=(TrueUp.of(limit, 30),))
        peek = gcra("tpm", limit=3600, burst=100, cost=0)
        assert (await desk.reserve(make_rid(), costs(0), limits=(peek,))).limits[0].remaining in (70, 71)
        other = make_rid()
        await desk.reserve(other, costs(0), limits=(peek,))
        await desk.end(other, 1, 0, true_ups=(TrueUp("tpm", HOUR, 3600, 100, 90, 0),))
        left = (await desk.reserve(make_rid(), costs(0), limits=(peek,))).limits
        assert left == (LimitLeft(100, 0),)

    async def test_longest_wait_wins(self, desk: Desk) -> None:
        """Of several limits that do not fit the one with the longest wait is named."""
        limits = (gcra("a", limit=600, burst=1), gcra("b", limit=60, burst=1))
        await desk.reserve(make_rid(), costs(0), limits=limits)
        assert (await desk.reserve(make_rid(), costs(0), limits=limits)).blocked == "b"

    async def test_shared_limits(self, ledger: Store, org: str) -> None:
        """A backend's limits are taken by any org, all or nothing, and given back."""
        few, many = gcra("few", burst=2), gcra("many", burst=9)
        rids = [make_rid() for _ in range(3)]
        codes = [(await ledger.take(org, rid, (few, many))).code for rid in rids]
        assert codes == ["OK", "OK", "LIMIT"]
        refused = await ledger.take(org, rids[2], (few, many))
        assert (refused.blocked, 50_000 < refused.wait_ms <= 60_000) == ("few", True)
        await ledger.give_back(org, rids[0], (TrueUp.of(few, 0), TrueUp.of(many, 0)))
        assert (await ledger.take(org, rids[2], (few, many))).code == "OK"
        codes = [(await ledger.take(org, make_rid(), (many,))).code for _ in range(8)]
        assert codes.count("OK") == 7  # 2 refused takes took none
        assert (await ledger.take(org, make_rid(), ())).code == "OK"

    async def test_shared_limits_know_requests(self, ledger: Store, org: str) -> None:
        """A take and its correction count once, however often they are sent; a take that comes after its correction,
        having lain in a socket, takes nothing."""
        limit, rid = gcra("few", burst=2), make_rid()
        assert [(await ledger.take(org, rid, (limit,))).code for _ in range(5)] == ["OK"] * 5
        other = make_rid()
        assert [(await ledger.take(org, one, (limit,))).code for one in (other, make_rid())] == ["OK", "LIMIT"]
        for _ in range(3):
            await ledger.give_back(org, rid, (TrueUp.of(limit, 0),))
        assert [(await ledger.take(org, one, (limit,))).code for one in (rid, make_rid(), make_rid())] == [
            "OK", "OK", "LIMIT"]
        assert (await ledger.take(f"{org}-other", rid, (limit,))).code == "OK"

    async def test_shared_limits_forget_requests(self, monkeypatch: pytest.MonkeyPatch, ledger: Store, org: str) -> None:
        """What is remembered of a request does not stay."""
        for module in (memory_treasury, redis_treasury):
            monkeypatch.setattr(module, "MARK_MS", 50)
        limit, rid = gcra("few", burst=2), make_rid()
        for _ in range(2):
            assert (await ledger.take(org, rid, (limit,))).code == "OK"
            await asyncio.sleep(0.1)
        assert (await ledger.take(org, make_rid(), (limit,))).code == "LIMIT"
        if isinstance(ledger, RedisTreasury):
            assert await ledger.door.call(("EXISTS", f"{{be:{org}}}:m:{rid.hex()}")) == 0
        else:
            assert len(ledger._marks) == 1  # pyright: ignore


class TestRollups:
    """Daily rows."""

    async def test_too_many_rows(self, desk: Desk) -> None:
        """Beyond the most rows of a day, what is new is summed in the row `other`."""
        book = getattr(desk.store, "book", None)
        if book is not None:
            book(desk.org).most_rows = 2
        desk.store.most_rows = 2  # pyright: ignore
        for name in "abcda":
            rid = make_rid()
            await desk.store.reserve(desk.org, rid, admission(rid))
            row = ROW.__class__(ROW.day, name, "p", "u", "k", "m", "b")
            settlement = Settlement(attempt(1), 5, 1, 1, row)
            assert await desk.store.end(desk.org, rid, 1, settlement, final=True) == "DONE"
        rows = {row["team"]: row["cost"] for row in await desk.store.rollups(desk.org, ROW.day)}
        assert rows == {"a": 10, "b": 5, "other": 10}


async def test_unsent_need_is_a_record(desk: Desk) -> None:
    """The attempt that a dead worker announced is in the expired record as it was announced."""
    rid = await desk.open(100, usd())
    await desk.begin(rid, 1, 60, lease=OVER)
    await desk.store.sweep(desk.org)
    (record,) = await desk.records()
    assert [(entry.number, entry.outcome) for entry in record.attempts] == [(1, pb.Attempt.EXPIRED)]


async def test_account_is_optional_for_orphans(desk: Desk) -> None:
    """An orphan that names no budgets is recorded and charged to none."""
    rid = make_rid()
    ended = await desk.store.end(desk.org, rid, 1, used(1, 9), final=True, account=Account())
    assert (ended.code, await desk.windows()) == ("ORPHAN", {})
