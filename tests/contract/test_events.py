"""Who dies when and what is charged; sweeps, clocks, windows and changes of the table."""

from __future__ import annotations

import asyncio
import signal

import pytest

from extproc.ledger import rebuild
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import NotReplicated
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import Shortage, Unit
from extproc.money.tables import Entry, Table
from tests.contract.ledger_kit import (
    HOUR,
    OTHER_ROW,
    OVER,
    Desk,
    Store,
    admission,
    budget,
    costs,
    make_rid,
    now_ms,
    usd,
    used,
)
from tests.contract.ledger_servers import Server


class TestDeaths:
    """Each row of the table of deaths, with the money it costs."""

    async def test_client_leaves_before_begin(self, desk: Desk) -> None:
        """The client leaves before begin: finish, unsent, nothing charged."""
        rid = await desk.open(100, usd())
        await desk.store.finish(desk.org, rid)
        assert (await desk.states(), await desk.state()) == (["unsent"], (0, 0, 0))

    async def test_worker_dies_after_reserve(self, desk: Desk) -> None:
        """The worker dies before begin, or the reply of its reserve was lost: unsent, nothing charged."""
        await desk.open(100, usd(), lease=OVER)
        await desk.store.sweep(desk.org)
        assert (await desk.states(), await desk.state()) == (["unsent"], (0, 0, 0))

    async def test_worker_dies_after_begin(self, desk: Desk) -> None:
        """The worker dies after begin: the attempt's need in full; a spool line that turns up corrects it."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 80, lease=OVER)
        await desk.store.sweep(desk.org)
        assert await desk.state() == (80, 0, 0)
        assert (await desk.end(rid, 1, 33, usd())).code == "LATE"
        assert await desk.state() == (33, 0, 0)
        await desk.check_rest()

    async def test_end_delivered_reply_lost(self, desk: Desk) -> None:
        """An end whose reply was lost is repeated: DUP, charged once."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 80)
        await desk.end(rid, 1, 50, usd())
        assert (await desk.end(rid, 1, 50, usd())).code == "DUP"
        assert await desk.state() == (50, 0, 0)

    async def test_stalled_worker_resumes(self, desk: Desk) -> None:
        """A stalled worker finds its attempt late, and its next attempt GONE."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 80, lease=OVER)
        await desk.store.sweep(desk.org)
        assert (await desk.begin(rid, 2, 10)).code == "GONE"
        assert (await desk.end(rid, 1, 95, usd())).code == "LATE"
        assert await desk.state() == (95, 0, 0)

    async def test_settle_and_sweep_at_once(self, desk: Desk) -> None:
        """Whichever of end and sweep runs first, the sum is the actual cost."""
        rids = [await desk.open(50, usd(limit=10_000)) for _ in range(30)]
        for rid in rids:
            await desk.begin(rid, 1, 50, lease=OVER)
        await asyncio.gather(
            *(desk.end(rid, 1, 20, usd(limit=10_000)) for rid in rids),
            desk.store.sweep(desk.org), desk.store.sweep(desk.org),
        )  # fmt: skip
        assert await desk.state() == (600, 0, 0)
        await desk.check_rest()

    async def test_attempt_1_billed_in_part(self, desk: Desk) -> None:
        """Attempt 1 billed in part, attempt 2 answers: both charged, topped up; without funds no attempt 2."""
        rid = await desk.open(100, usd(limit=150))
        await desk.begin(rid, 1, 100)
        await desk.end(rid, 1, 60, usd(), final=False)
        assert (await desk.begin(rid, 2, 100)).code == "BUDGET"
        assert (await desk.begin(rid, 2, 90)).code == "OK"
        await desk.end(rid, 2, 90, usd())
        assert await desk.state() == (150, 0, 0)
        await desk.check_rest()

    async def test_end_of_1_after_begin_of_2(self, desk: Desk) -> None:
        """Both needs are held until the end of attempt 1 arrives."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 100)
        await desk.begin(rid, 2, 100)
        assert await desk.state() == (0, 200, 0)
        await desk.end(rid, 1, 0, usd(), final=False)
        await desk.end(rid, 2, 70, usd())
        assert await desk.state() == (70, 0, 0)
        await desk.check_rest()

    async def test_all_attempts_failed_nobody_finishes(self, desk: Desk) -> None:
        """All attempts failed and nobody finishes: closed, what was paid."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 100, lease=OVER)
        await desk.end(rid, 1, 10, usd(), final=False)
        await desk.store.sweep(desk.org)
        assert (await desk.states(), await desk.state()) == (["closed"], (10, 0, 0))

    async def test_hedge_both_final(self, desk: Desk) -> None:
        """A hedge of which both are final: both charged, one record."""
        rid = await desk.open(100, usd())
        await asyncio.gather(desk.begin(rid, 1, 100), desk.begin(rid, 2, 90, row=OTHER_ROW))
        await asyncio.gather(desk.end(rid, 1, 70, usd()), desk.end(rid, 2, 80, usd(), row=OTHER_ROW))
        assert (await desk.states(), await desk.state()) == (["done"], (150, 0, 0))
        await desk.check_rest()

    async def test_calls_delivered_late(self, desk: Desk) -> None:
        """Every call of a closed request, delivered again later, changes nothing."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 100)
        await desk.end(rid, 1, 70, usd())
        codes = [
            (await desk.reserve(rid, costs(100), budgets=(usd(),))).code,
            (await desk.begin(rid, 1, 100)).code,
            (await desk.begin(rid, 2, 100)).code,
            (await desk.end(rid, 1, 70, usd())).code,
            (await desk.end(rid, 2, 70, usd())).code,
            (await desk.store.finish(desk.org, rid))[0],
            await desk.store.expire(desk.org, rid),
        ]
        assert codes == ["GONE", "GONE", "GONE", "DUP", "DUP", "DUP", "DUP"]
        assert await desk.state() == (70, 0, 0)
        await desk.check_rest()

    async def test_late_duplicate_of_a_refused_reserve(self, desk: Desk) -> None:
        """A late duplicate of a refused reserve may take a hold: unsent at its lease's end."""
        rid, blocker = make_rid(), await desk.open(1000, usd())
        assert (await desk.reserve(rid, costs(10), budgets=(usd(),))).code == "BUDGET"
        await desk.store.finish(desk.org, blocker)
        assert (await desk.reserve(rid, costs(10), budgets=(usd(),), lease=OVER)).code == "OK"
        await desk.store.sweep(desk.org)
        assert (await desk.states(), await desk.state()) == (["unsent", "unsent"], (0, 0, 0))

    async def test_billed_above_the_bound(self, desk: Desk) -> None:
        """A bill above the bound is charged in full, the unfundable part as debt; a dead worker's only the bound."""
        rid = await desk.open(900, usd())
        await desk.begin(rid, 1, 900)
        assert (await desk.end(rid, 1, 1300, usd())).unfunded_nano_usd == 300
        assert await desk.state() == (1000, 0, 300)
        dead = await desk.open(50, usd("other"))
        await desk.begin(dead, 1, 50, lease=OVER)
        await desk.store.sweep(desk.org)
        assert await desk.state("other") == (50, 0, 0)

    async def test_lost_hold(self, desk: Desk) -> None:
        """A hold that a fail-over lost is not lost money: its end is charged as an orphan."""
        rid = await desk.open(100, usd())
        await desk.begin(rid, 1, 100)
        if isinstance(desk.store, RedisTreasury):
            await desk.store.door.call(("DEL", f"{{{desk.org}}}:r:{rid.hex()}"))
        else:
            del desk.store.book(desk.org).reservations[rid]
        assert (await desk.end(rid, 1, 60, usd())).code == "ORPHAN"
        assert (await desk.state())[0] == 60


class TestStoreFails:
    """What the store's own failures do to money."""

    async def test_restart_with_aof(self, server: Server) -> None:
        """SIGKILL and restart lose nothing that was acknowledged, and the calls may be repeated."""
        store = RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        desk = Desk(store, "o")
        await desk.publish()
        rids = [await desk.open(10, usd(limit=10_000)) for _ in range(50)]
        for rid in rids[:25]:
            await desk.end(rid, 1, 7, usd())
        await asyncio.to_thread(server.kill)
        with pytest.raises(LedgerUnavailable):
            await desk.open(10, usd(limit=10_000))
        await asyncio.to_thread(server.start)
        assert await desk.state() == (175, 250, 0)
        codes = [(await desk.end(rid, 1, 7, usd())).code for rid in rids]
        assert codes == ["DUP"] * 25 + ["DONE"] * 25
        await desk.check_rest()
        await store.close()

    async def test_data_gone(self, server: Server) -> None:
        """When the data is gone nothing is granted until a table is published again; open ends are orphans."""
        store = RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        desk = Desk(store, "o")
        old = await desk.publish()
        rid = await desk.open(10, usd())
        await store.door.call(("FLUSHALL",))
        assert (await desk.reserve(make_rid(), costs(1), budgets=(usd(),))).code == "EMPTY"
        assert (await desk.end(rid, 1, 7, usd())).code == "ORPHAN"
        desk.epoch = 0
        assert await desk.publish() > old
        assert (await desk.reserve(make_rid(), costs(1), budgets=(usd(),), epoch=old)).code == "STALE"
        assert await desk.state() == (7, 0, 0)
        await store.close()

    async def test_frozen_mid_call(self, server: Server) -> None:
        """A server that freezes costs a deadline; the calls repeated later count once."""
        store = RedisTreasury(server.url)
        desk = Desk(store, "o")
        await desk.publish()
        rid = await desk.open(100, usd())
        server.signal(signal.SIGSTOP)
        try:
            for call in (desk.begin(rid, 1, 100), desk.end(rid, 1, 60, usd())):
                with pytest.raises(LedgerUnavailable):
                    await call
        finally:
            server.signal(signal.SIGCONT)
        await asyncio.sleep(0.1)
        await desk.begin(rid, 1, 100)
        await desk.end(rid, 1, 60, usd())
        assert await desk.state() == (60, 0, 0)
        await desk.check_rest()
        await store.close()

    async def test_full_server_still_closes(self, server: Server) -> None:
        """When memory is full no hold is granted, but ends, finishes and expiries release."""
        store = RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        desk = Desk(store, "o")
        await desk.publish()
        ended, finished = await desk.open(10, usd()), await desk.open(10, usd())
        await desk.open(10, usd(), lease=OVER)
        await store.door.call(("CONFIG", "SET", "maxmemory", 1))
        with pytest.raises(LedgerUnavailable, match="OOM"):
            await desk.open(10, usd())
        assert (await desk.end(ended, 1, 7, usd())).code == "DONE"
        assert (await store.finish("o", finished))[0] == "DONE"
        assert await store.sweep("o") == 1
        assert await desk.state() == (7, 0, 0)
        await store.close()

    async def test_too_few_replicas(self, server: Server) -> None:
        """A hold that too few replicas confirmed is given back and not granted."""
        store = RedisTreasury(server.url, call_timeout=0.25, wait=1)
        free = RedisTreasury(server.url, call_timeout=5, wait="auto")
        desk = Desk(free, "o")
        await desk.publish()
        with pytest.raises(NotReplicated, match="0 of 1"):
            await Desk(store, "o").reserve(make_rid(), costs(5), budgets=(usd(),), epoch=desk.epoch)
        assert (await desk.states(), await desk.state()) == (["unsent"], (0, 0, 0))
        assert await free.check() is None
        await store.close()
        await free.close()


class TestRebuild:
    """A store that lost its data gets its windows back from the records."""

    TABLE = Table(1, (Entry("day", Unit.USD, 1000, "day"), Entry("tok", Unit.TOKENS, 500, "total"),
                      Entry("req", Unit.REQUESTS, 9, "total"), Entry("con", Unit.CONCURRENT, 9, "total")))  # fmt: skip

    async def test_windows_come_back(self, desk: Desk) -> None:
        """Windows made again from the records are what they were, debt included; then a table admits again."""
        budgets = tuple(entry.at(now_ms()) for entry in self.TABLE.entries)
        dead = await desk.open(50, *budgets)
        await desk.begin(dead, 1, 40, 40, lease=OVER)
        await desk.store.sweep(desk.org)
        await desk.end(dead, 1, 30, *budgets, tokens=10)
        for cost in (100, 150, 1200):
            await desk.end(await desk.open(100, *budgets), 1, cost, *budgets, tokens=20)
        await desk.store.finish(desk.org, await desk.open(0, budget("other", Unit.USD, 5)))
        before = [state for state in (await desk.store.audit(desk.org)).windows if state.budget != "other"]
        records = await desk.records()

        lost = Desk(desk.store, desk.org + "-lost")
        windows = rebuild.seeds(self.TABLE, rebuild.charged(records))
        assert await desk.store.seed(lost.org, windows, 1) == "CHANGED"
        for _ in range(2):
            assert await desk.store.seed(lost.org, windows, 0) == "OK"
        assert list((await desk.store.audit(lost.org)).windows) == before
        await lost.publish()
        assert await desk.store.seed(lost.org, windows, 0) == "NOT_EMPTY"
        assert (await lost.reserve(make_rid(), costs(1), budgets=budgets)).code == "BUDGET"

    async def test_other_periods_are_left_out(self) -> None:
        """A window that is none of the table's periods is not made."""
        sums = {"day:1": rebuild.Charged(5), "tok:0": rebuild.Charged(1, 2), "gone:0": rebuild.Charged(3)}
        assert [(b.window, spent) for b, spent in rebuild.seeds(self.TABLE, sums)] == [("tok:0", 2)]


class TestTimeAndChange:
    """Sweeps, clocks, windows, changes."""

    async def test_many_sweepers(self, desk: Desk) -> None:
        """Any number of sweepers at once charge each request once."""
        for _ in range(50):
            rid = await desk.open(10, usd(limit=10_000))
            await desk.begin(rid, 1, 10, lease=OVER)
        swept = await asyncio.gather(*(desk.store.sweep(desk.org) for _ in range(4)))
        assert sum(swept) == 50
        assert await desk.state() == (500, 0, 0)
        await desk.check_rest()

    async def test_list_of_windows_is_cleared(self, desk: Desk) -> None:
        """A sweep forgets the names of windows that take no corrections any more."""
        await desk.open(1, usd("gone", end_ms=now_ms() + 400, keep_ms=0), usd())
        await asyncio.sleep(0.45)
        await desk.store.sweep(desk.org)
        if isinstance(desk.store, RedisTreasury):
            names = await desk.store.door.call(("ZRANGE", f"{{{desk.org}}}:w", 0, -1))
            assert names == [usd().window.encode()]
        assert set(await desk.windows()) == {"org"}

    async def test_sweep_limit(self, desk: Desk) -> None:
        """A pass closes at most its limit; what waits is reserved meanwhile, so nothing is granted twice."""
        for _ in range(5):
            await desk.open(200, usd(), lease=OVER)
        assert await desk.store.sweep(desk.org, 3) == 3
        assert await desk.state() == (0, 400, 0)

    async def test_slot_is_freed_by_expiry(self, desk: Desk) -> None:
        """A concurrency slot leaks no longer than a lease."""
        slots = budget("con", Unit.CONCURRENT, 1)
        rid = await desk.open(0, slots)
        await desk.begin(rid, 1, 0, lease=OVER)
        assert (await desk.reserve(make_rid(), budgets=(slots,))).code == "BUDGET"
        await desk.store.sweep(desk.org)
        assert (await desk.reserve(make_rid(), budgets=(slots,))).code == "OK"

    async def test_servers_clock_decides(self, desk: Desk) -> None:
        """A worker whose clock is off gets WINDOW and the time with which its second try fits."""
        wrong = usd(start_ms=now_ms() + HOUR, end_ms=now_ms() + 2 * HOUR)
        grant = await desk.reserve(make_rid(), costs(1), budgets=(wrong,))
        assert grant.code == "WINDOW"
        right = usd(start_ms=grant.time_ms - 1000, end_ms=grant.time_ms + HOUR)
        assert (await desk.reserve(make_rid(), costs(1), budgets=(right,))).code == "OK"

    async def test_roll_between_reserve_and_end(self, desk: Desk) -> None:
        """A request settles into the windows of its admission though they are over."""
        short = usd(end_ms=now_ms() + 400)
        rid = await desk.open(10, short)
        await asyncio.sleep(0.45)
        assert (await desk.reserve(make_rid(), costs(1), budgets=(short,))).code == "WINDOW"
        await desk.end(rid, 1, 8, short)
        assert await desk.state() == (8, 0, 0)

    async def test_two_windows_of_one_budget(self, desk: Desk) -> None:
        """Each window of a budget has sums of its own."""
        now = now_ms()
        for start in (now - HOUR, now - 2 * HOUR):
            await desk.open(600, usd(start_ms=start, end_ms=now + HOUR))
        assert [w.reserved for w in (await desk.store.audit(desk.org)).windows] == [600, 600]

    async def test_lowered_below_the_sum(self, desk: Desk) -> None:
        """Below a lowered limit nothing is granted, holds settle, and the sum only falls until it is under."""
        held, paid = await desk.open(500, usd()), await desk.open(400, usd())
        await desk.end(paid, 1, 400, usd())
        await desk.publish(org=600)
        refused = await desk.reserve(make_rid(), costs(1), budgets=(usd(limit=600),))
        assert refused.shortage == Shortage(1, -300, 500, 600)
        await desk.end(held, 1, 100, usd(limit=600))
        assert await desk.state() == (500, 0, 0)
        assert (await desk.reserve(make_rid(), costs(100), budgets=(usd(limit=600),))).code == "OK"

    async def test_no_grant_under_the_old_table(self, desk: Desk) -> None:
        """From publish on a worker with yesterday's limit cannot overrun the lowered one."""
        await desk.open(500, usd())
        old = desk.epoch
        await desk.publish(org=500)
        assert (await desk.reserve(make_rid(), costs(400), budgets=(usd(),), epoch=old)).code == "STALE"
        assert await desk.state() == (0, 500, 0)

    async def test_created_later(self, desk: Desk) -> None:
        """A new budget counts admissions from its table on; requests admitted before do not touch it."""
        before = await desk.open(100, usd())
        await desk.publish()
        after = await desk.open(100, usd(), usd("new"))
        for rid in (before, after):
            await desk.store.end(desk.org, rid, 1, used(1, 50), final=True)
        assert (await desk.state(), await desk.state("new")) == ((100, 0, 0), (50, 0, 0))

    async def test_deleted(self, desk: Desk) -> None:
        """Holds in flight still settle into a budget that the table no longer has."""
        rid = await desk.open(100, usd(), usd("old"))
        await desk.publish()
        await desk.end(rid, 1, 50, usd(), usd("old"))
        assert await desk.state("old") == (50, 0, 0)

    async def test_limit_0(self, desk: Desk) -> None:
        """A budget of limit 0 admits only what is free, and says that no waiting helps."""
        refused = await desk.reserve(make_rid(), costs(1), budgets=(usd(limit=0),))
        assert refused.code == "BUDGET" and refused.shortage is not None and refused.shortage.hopeless
        assert (await desk.reserve(make_rid(), costs(0), budgets=(usd(limit=0),))).code == "OK"

    async def test_wildcard_needs_no_creation(self, desk: Desk) -> None:
        """The first requests of a new user are bounded though nobody created the user's window."""
        grants = await asyncio.gather(
            *(desk.reserve(make_rid(), costs(400), budgets=(usd("u-new"),)) for _ in range(5))
        )
        assert sorted(grant.code for grant in grants) == ["BUDGET"] * 3 + ["OK"] * 2

    async def test_never_over_the_limit(self, desk: Desk) -> None:
        """200 reservations at once are granted exactly what fits."""
        budgets = (usd("a", 1000), usd("b", 5000))
        grants = await asyncio.gather(
            *(desk.reserve(make_rid(), costs(17), budgets=budgets) for _ in range(200))
        )
        assert sum(grant.code == "OK" for grant in grants) == 1000 // 17
        assert await desk.state("a") == (0, 1000 // 17 * 17, 0)


async def test_every_call_twice_at_once(ledger: Store, org: str) -> None:
    """200 concurrent requests, each call sent twice at once, are charged once each."""
    desk = Desk(ledger, org)
    await desk.publish()
    budgets = (usd(limit=100_000), budget("con", Unit.CONCURRENT, 300))

    async def request() -> None:
        rid = make_rid()
        for call in (
            lambda: desk.reserve(rid, costs(100), budgets=budgets),
            lambda: desk.begin(rid, 1, 100),
            lambda: desk.end(rid, 1, 61, *budgets, final=False),
            lambda: ledger.finish(org, rid),
        ):
            await asyncio.gather(call(), call())

    await asyncio.gather(*(request() for _ in range(200)))
    assert await desk.state() == (200 * 61, 0, 0)
    assert len(await desk.records()) == 200
    await desk.check_rest()


async def test_admission_travels(desk: Desk) -> None:
    """The admission given to reserve is in the record, whoever closes the request."""
    rid = await desk.open(1, usd(), lease=OVER)
    await desk.store.sweep(desk.org)
    (record,) = await desk.records()
    assert record.admission.SerializeToString() == admission(rid)
