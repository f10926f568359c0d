"""One suite over every store: the memory twin, the embedded Valkey and, where installed, Redis 7."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.ledger.base import EndCode, LedgerMisconfigured, LedgerUnavailable, Settlement
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_ledger import RedisLedger
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.pb import usage_pb2 as pb
from tests.contract.ledger_kit import (
    DAY,
    OTHER_ROW,
    OVER,
    ROW,
    SERVERS,
    Store,
    admission,
    attempt,
    make_rid,
    need,
    used,
)
from tests.contract.ledger_servers import Server


def summary(record: pb.UsageRecord) -> tuple[str, list[tuple[int, int]]]:
    return record.state, [(entry.number, entry.outcome) for entry in record.attempts]


async def states(ledger: Store, org: str) -> list[str]:
    return [record.state for record in await ledger.records(org)]


async def sums(ledger: Store, org: str) -> dict[str, int]:
    rows = await ledger.rollups(org, DAY)
    names = ("requests", "cost", "unpriced", "input", "output")
    return {name: sum(int(row[name]) for row in rows) for name in names}


class TestOneRequest:
    """The path of a request that has one attempt."""

    async def test_served(self, ledger: Store, org: str) -> None:
        """A final end closes the request with one record, and finish has nothing left to do."""
        rid = make_rid()
        assert await ledger.reserve(org, rid, admission(rid)) == "OK"
        assert await ledger.begin(org, rid, 1, need(1)) == "OK"
        assert await ledger.end(org, rid, 1, used(1), final=True) == "DONE"
        assert await ledger.finish(org, rid) == ("DUP", [])
        (record,) = await ledger.records(org)
        assert summary(record) == ("done", [(1, pb.Attempt.EXACT)])
        assert record.admission.request_id == rid.hex()
        assert record.admission.route == "r" * 300
        assert await ledger.orgs() and org in await ledger.orgs()

    async def test_final_after_finish(self, ledger: Store, org: str) -> None:
        """finish while an attempt is open waits for its end, which then closes, final or not."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.begin(org, rid, 1, need(1))
        assert await ledger.finish(org, rid) == ("OPEN", [])
        assert await ledger.finish(org, rid) == ("DUP", [])
        assert await ledger.begin(org, rid, 2, need(2)) == "GONE"
        assert await ledger.end(org, rid, 1, used(1), final=False) == "DONE"
        assert await states(ledger, org) == ["done"]

    async def test_client_leaves_before_begin(self, ledger: Store, org: str) -> None:
        """finish before any attempt closes as unsent and adds to no rollup."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        assert await ledger.finish(org, rid) == ("DONE", [])
        assert await states(ledger, org) == ["unsent"]
        assert await ledger.rollups(org, DAY) == []

    async def test_every_call_twice(self, ledger: Store, org: str) -> None:
        """Repeating each call changes nothing: same grants, DUP for what is settled, one record."""
        rid = make_rid()
        for _ in range(2):
            assert await ledger.reserve(org, rid, admission(rid)) == "OK"
        for _ in range(2):
            assert await ledger.begin(org, rid, 1, need(1)) == "OK"
        assert await ledger.end(org, rid, 1, used(1), final=False) == "OPEN"
        assert await ledger.end(org, rid, 1, used(1), final=False) == "DUP"
        assert await ledger.begin(org, rid, 1, need(1)) == "GONE"
        assert await ledger.finish(org, rid) == ("DONE", [attempt(1)])
        assert await ledger.finish(org, rid) == ("DUP", [])
        assert await ledger.end(org, rid, 1, used(1), final=True) == "DUP"
        assert await ledger.expire(org, rid) == "DUP"
        assert await states(ledger, org) == ["done"]
        assert await sums(ledger, org) == {"requests": 1, "cost": 7, "unpriced": 0, "input": 11, "output": 3}

    async def test_duplicate_reserve_after_close(self, ledger: Store, org: str) -> None:
        """A reserve that arrives after the close is no ghost: GONE, and no second record."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.finish(org, rid)
        assert await ledger.reserve(org, rid, admission(rid)) == "GONE"
        assert await ledger.begin(org, rid, 1, need(1)) == "GONE"
        assert await ledger.end(org, rid, 1, used(1), final=True) == "DUP"
        assert await states(ledger, org) == ["unsent"]

    async def test_begin_without_reservation(self, ledger: Store, org: str) -> None:
        """An attempt without a reservation must not be dispatched."""
        assert await ledger.begin(org, make_rid(), 1, need(1)) == "GONE"

    async def test_orphan(self, ledger: Store, org: str) -> None:
        """An end whose reservation was lost is recorded once, with the id and who pays."""
        rid = make_rid()
        assert await ledger.end(org, rid, 1, used(1), final=True) == "ORPHAN"
        assert await ledger.end(org, rid, 1, used(1), final=True) == "DUP"
        assert await ledger.reserve(org, rid, admission(rid)) == "GONE"
        (record,) = await ledger.records(org)
        assert summary(record) == ("orphan", [(1, pb.Attempt.EXACT)])
        assert (record.admission.request_id, record.admission.user) == (rid.hex(), "ann")
        assert await sums(ledger, org) == {"requests": 1, "cost": 7, "unpriced": 0, "input": 11, "output": 3}

    @pytest.mark.parametrize("size", [0, 125, 126, 127, 16_380, 16_381, 40_000])  # 127 B, 128 B, …
    async def test_blobs_of_any_size(self, ledger: Store, org: str, size: int) -> None:
        """The record that is built by hand is valid protobuf at every boundary of its lengths."""
        rid = make_rid()
        body = pb.Attempt(error_body="x" * size).SerializeToString()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.end(org, rid, 1, Settlement(body, 1, 1, 1, ROW), final=True)
        (record,) = await ledger.records(org)
        assert [entry.SerializeToString() for entry in record.attempts] == [body]

    async def test_unknown_price_is_not_zero(self, ledger: Store, org: str) -> None:
        """An attempt without a price is counted as unpriced."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.end(org, rid, 1, used(1, cost=None), final=True)
        assert (await sums(ledger, org))["unpriced"] == 1
        assert (await sums(ledger, org))["cost"] == 0

    async def test_large_amounts_are_exact(self, ledger: Store, org: str) -> None:
        """Rollups stay exact beyond what a double can hold."""
        for _ in range(3):
            rid = make_rid()
            await ledger.reserve(org, rid, admission(rid))
            await ledger.end(org, rid, 1, used(1, cost=4_000_003_000_000_001), final=True)
        assert (await sums(ledger, org))["cost"] == 12_000_009_000_000_003


class TestSeveralAttempts:
    """Fallbacks and hedges."""

    async def test_fallback(self, ledger: Store, org: str) -> None:
        """Attempt 1 billed in part, attempt 2 answers: both count, one record, request on the last row."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.begin(org, rid, 1, need(1))
        assert await ledger.end(org, rid, 1, used(1, 5), final=False) == "OPEN"
        await ledger.begin(org, rid, 2, need(2))
        assert await ledger.end(org, rid, 2, used(2, 7, OTHER_ROW), final=True) == "DONE"
        (record,) = await ledger.records(org)
        assert summary(record) == ("done", [(1, pb.Attempt.EXACT), (2, pb.Attempt.EXACT)])
        rows = {row["backend"]: row for row in await ledger.rollups(org, DAY)}
        assert (rows["local"]["requests"], rows["local"]["cost"]) == (0, 5)
        assert (rows["openai"]["requests"], rows["openai"]["cost"]) == (1, 7)
        assert rows["openai"]["model"] == "gpt-5-mini"

    async def test_end_of_1_after_begin_of_2(self, ledger: Store, org: str) -> None:
        """A late end of attempt 1 during attempt 2 keeps the request open until both ended."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.begin(org, rid, 1, need(1))
        await ledger.begin(org, rid, 2, need(2))
        assert await ledger.end(org, rid, 2, used(2), final=True) == "OPEN"
        assert await ledger.begin(org, rid, 3, need(3)) == "GONE"
        assert await ledger.end(org, rid, 1, used(1), final=False) == "DONE"
        (record,) = await ledger.records(org)
        assert [number for number, _ in summary(record)[1]] == [1, 2]

    async def test_hedge_both_final(self, ledger: Store, org: str) -> None:
        """Two final attempts are both counted in one record."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await asyncio.gather(ledger.begin(org, rid, 1, need(1)), ledger.begin(org, rid, 2, need(2)))
        codes = await asyncio.gather(
            ledger.end(org, rid, 1, used(1), final=True), ledger.end(org, rid, 2, used(2), final=True)
        )
        assert sorted(codes) == ["DONE", "OPEN"]
        assert await states(ledger, org) == ["done"]
        assert await sums(ledger, org) == {"requests": 1, "cost": 14, "unpriced": 0, "input": 22, "output": 6}

    async def test_all_failed_then_finish(self, ledger: Store, org: str) -> None:
        """finish after failed attempts returns them by number, beyond nine too, and counts the request."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        for number in range(1, 13):
            await ledger.begin(org, rid, number, need(number))
            await ledger.end(org, rid, number, used(number), final=False)
        assert await ledger.finish(org, rid) == ("DONE", [attempt(number) for number in range(1, 13)])
        assert await states(ledger, org) == ["done"]
        assert (await sums(ledger, org))["requests"] == 1

    @pytest.mark.parametrize(("numbers", "told"), [((1,), []), ((2,), [2]), ((1, 2), [1, 2]), ((1, 3, 12), [1, 3, 12])])
    async def test_finish_after_a_final_end(
        self, ledger: Store, org: str, numbers: tuple[int, ...], told: list[int]
    ) -> None:
        """finish after a final end tells which attempts there were, but for a first one alone; an end again changes
        nothing."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        for number in numbers:
            await ledger.begin(org, rid, number, need(number))
            await ledger.end(org, rid, number, used(number), final=number == numbers[-1])
        for _ in range(2):
            code, blobs = await ledger.finish(org, rid)
            assert (code, [pb.Attempt.FromString(blob).number for blob in blobs]) == ("DUP", told)
            assert await ledger.end(org, rid, numbers[-1], used(numbers[-1]), final=True) == "DUP"
        assert await states(ledger, org) == ["done"]


class TestLeases:
    """What happens when a worker dies or stalls."""

    async def test_dies_before_begin(self, ledger: Store, org: str) -> None:
        """A reservation that was never begun ends as unsent."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid), OVER)
        assert await ledger.expire(org, rid) == "DONE"
        assert await ledger.expire(org, rid) == "DUP"
        assert await ledger.reserve(org, rid, admission(rid)) == "GONE"
        assert await states(ledger, org) == ["unsent"]

    async def test_dies_after_begin(self, ledger: Store, org: str) -> None:
        """An open attempt is recorded as it was announced; what ended before keeps its truth."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.begin(org, rid, 1, need(1))
        await ledger.end(org, rid, 1, used(1), final=False)
        await ledger.begin(org, rid, 2, need(2), OVER)
        assert await ledger.expire(org, rid) == "DONE"
        (record,) = await ledger.records(org)
        assert summary(record) == ("expired", [(1, pb.Attempt.EXACT), (2, pb.Attempt.EXPIRED)])
        assert await ledger.finish(org, rid) == ("DUP", [attempt(1)])
        assert await ledger.expire(org, rid) == "DUP"

    async def test_stalls_and_ends_late(self, ledger: Store, org: str) -> None:
        """Each attempt that was open gets one late record; the last one buries the request."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.begin(org, rid, 1, need(1))
        await ledger.begin(org, rid, 2, need(2), OVER)
        assert await ledger.expire(org, rid) == "DONE"
        assert await ledger.begin(org, rid, 3, need(3)) == "GONE"
        assert await ledger.reserve(org, rid, admission(rid)) == "GONE"
        codes: list[EndCode] = [
            await ledger.end(org, rid, number, used(number), final=True) for number in (2, 2, 3, 1, 1)
        ]
        assert codes == ["LATE", "DUP", "DUP", "LATE", "DUP"]
        assert await states(ledger, org) == ["expired", "late", "late"]
        assert (await ledger.records(org))[1].admission.request_id == rid.hex()
        assert await sums(ledger, org) == {"requests": 1, "cost": 14, "unpriced": 0, "input": 22, "output": 6}

    async def test_nobody_finishes(self, ledger: Store, org: str) -> None:
        """Attempts that failed without a finish end as closed, counted once."""
        rid = make_rid()
        await ledger.reserve(org, rid, admission(rid))
        await ledger.begin(org, rid, 1, need(1), OVER)
        await ledger.end(org, rid, 1, used(1), final=False)
        assert await ledger.expire(org, rid) == "DONE"
        assert await states(ledger, org) == ["closed"]
        assert (await sums(ledger, org))["requests"] == 1

    async def test_renewed(self, ledger: Store, org: str) -> None:
        """A renewed lease is live, renewing never shortens, and what is gone stays gone."""
        live, gone = make_rid(), make_rid()
        await ledger.reserve(org, live, admission(live), OVER)
        await ledger.renew(org, [live, gone])
        await ledger.renew(org, [live], OVER)
        await ledger.renew(org, [])
        if isinstance(ledger, RedisLedger):  # no lease without a reservation is left behind
            link = ledger._link  # pyright: ignore[reportPrivateUsage]
            assert await link.call(("ZSCORE", f"{{{org}}}:x", gone)) is None
        assert await ledger.expire(org, live) == "LIVE"
        assert await ledger.expire(org, gone) == "DUP"
        assert await ledger.begin(org, gone, 1, need(1)) == "GONE"

    async def test_sweep(self, ledger: Store, org: str) -> None:
        """A sweep closes what is over, at most its limit at a time, and leaves the rest."""
        for lease in [OVER] * 5 + [60_000] * 2:
            rid = make_rid()
            await ledger.reserve(org, rid, admission(rid), lease)
        assert [await ledger.sweep(org, 3), await ledger.sweep(org, 3), await ledger.sweep(org)] == [3, 2, 0]
        assert await states(ledger, org) == ["unsent"] * 5

    async def test_settle_and_sweep_at_once(self, ledger: Store, org: str) -> None:
        """Many sweepers and the end together: one primary record, the truth is in the sums exactly once."""
        for _ in range(20):
            rid = make_rid()
            await ledger.reserve(org, rid, admission(rid))
            await ledger.begin(org, rid, 1, need(1), OVER)
            await asyncio.gather(
                ledger.sweep(org), ledger.end(org, rid, 1, used(1), final=True), ledger.sweep(org)
            )
        seen = await states(ledger, org)
        assert sum(state in ("done", "expired") for state in seen) == 20
        assert seen.count("late") == seen.count("expired")
        assert (await sums(ledger, org))["cost"] == 20 * 7


async def test_200_at_once(ledger: Store, org: str) -> None:
    """200 concurrent requests, each call sent twice, give exactly one record each."""

    async def twice(call: Callable[[], Any]) -> None:
        await asyncio.gather(call(), call())

    async def request(rid: bytes) -> None:
        await twice(lambda: ledger.reserve(org, rid, admission(rid)))
        await twice(lambda: ledger.begin(org, rid, 1, need(1)))
        await twice(lambda: ledger.end(org, rid, 1, used(1), final=False))
        await twice(lambda: ledger.finish(org, rid))

    rids = [make_rid() for _ in range(200)]
    await asyncio.gather(*(request(rid) for rid in rids))
    records = await ledger.records(org, 1000)
    assert sorted(record.admission.request_id for record in records) == sorted(rid.hex() for rid in rids)
    assert {record.state for record in records} == {"done"}
    assert await sums(ledger, org) == {
        "requests": 200, "cost": 1400, "unpriced": 0, "input": 2200, "output": 600
    }  # fmt: skip


async def test_cancelled_callers(ledger: Store, org: str) -> None:
    """A call whose caller was cancelled still happens, and its reply answers nobody else."""
    rids = [make_rid() for _ in range(20)]
    for rid in rids:
        tasks = [
            asyncio.ensure_future(ledger.reserve(org, rid, admission(rid))),
            asyncio.ensure_future(ledger.end(org, rid, 1, used(1), final=False)),
            asyncio.ensure_future(ledger.finish(org, rid)),
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert await ledger.begin(org, make_rid(), 1, need(1)) == "GONE"
        await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(100):
        if len(await ledger.records(org)) == 20:
            break
        await asyncio.sleep(0.01)
    assert await states(ledger, org) == ["done"] * 20


class TestServerFails:
    """What callers see when the server dies, stalls, forgets or refuses."""

    async def test_no_server(self) -> None:
        """Nobody listening is LedgerUnavailable, at once."""
        ledger = RedisLedger("unix:///nonexistent/ledger.sock")
        with pytest.raises(LedgerUnavailable, match="no connection"):
            await ledger.reserve("o", make_rid(), b"")
        with pytest.raises(LedgerUnavailable):
            await ledger.finish("o", make_rid())
        await ledger.close()

    async def test_killed_and_restarted(self, server: Server) -> None:
        """After SIGKILL calls fail within the deadline; the restarted server has all it acknowledged."""
        ledger = RedisLedger(server.url)
        rids = [make_rid() for _ in range(300)]
        await asyncio.gather(*(ledger.reserve("o", rid, admission(rid)) for rid in rids))
        await asyncio.gather(*(ledger.end("o", rid, 1, used(1), final=True) for rid in rids[:150]))
        server.kill()
        before = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await ledger.reserve("o", make_rid(), b"")
        assert time.monotonic() - before < 0.5
        await asyncio.to_thread(server.start)
        assert len(await ledger.records("o", 1000)) == 150
        codes = await asyncio.gather(*(ledger.end("o", rid, 1, used(1), final=True) for rid in rids))
        assert codes == ["DUP"] * 150 + ["DONE"] * 150
        assert await sums(ledger, "o") == {
            "requests": 300, "cost": 2100, "unpriced": 0, "input": 3300, "output": 900
        }  # fmt: skip
        await ledger.close()

    async def test_frozen(self, server: Server) -> None:
        """A frozen server costs no more than the deadline; repeating the calls later is safe."""
        ledger = RedisLedger(server.url)
        rid = make_rid()
        assert await ledger.reserve("o", rid, admission(rid)) == "OK"
        server.signal(signal.SIGSTOP)
        try:
            before = time.monotonic()
            tries = await asyncio.gather(
                ledger.begin("o", rid, 1, need(1)),
                ledger.end("o", rid, 1, used(1), final=True),
                ledger.finish("o", rid),
                return_exceptions=True,
            )
            assert all(isinstance(error, LedgerUnavailable) for error in tries)
            assert time.monotonic() - before < 0.6
            # A new connection is accepted by the kernel but never greeted.
            with pytest.raises(LedgerUnavailable):
                await ledger.begin("o", rid, 1, need(1))
            assert time.monotonic() - before < 1.0
        finally:
            server.signal(signal.SIGCONT)
        await asyncio.sleep(0.1)
        assert await ledger.end("o", rid, 1, used(1), final=True) in ("DUP", "DONE")
        assert await states(ledger, "o") == ["done"]
        await ledger.close()

    async def test_scripts_forgotten(self, server: Server) -> None:
        """After SCRIPT FLUSH each call sends its script once and succeeds."""
        ledger = RedisLedger(server.url)
        rid = make_rid()
        await ledger.reserve("o", rid, admission(rid))
        link = ledger._link  # pyright: ignore[reportPrivateUsage]
        await link.call(("SCRIPT", "FLUSH"))
        codes = await asyncio.gather(*(ledger.begin("o", rid, number, need(number)) for number in (1, 2)))
        assert codes == ["OK", "OK"]
        await link.call(("SCRIPT", "FLUSH"))
        assert await ledger.end("o", rid, 1, used(1), final=False) == "OPEN"
        assert await ledger.end("o", rid, 2, used(2), final=False) == "OPEN"
        assert (await ledger.finish("o", rid))[0] == "DONE"
        await ledger.close()

    async def test_one_bad_call_fails_alone(self, server: Server) -> None:
        """An error reply reaches only its caller, though all went out in one write."""
        ledger = RedisLedger(server.url)
        rids = [make_rid() for _ in range(3)]
        link = ledger._link  # pyright: ignore[reportPrivateUsage]
        await link.call(("SET", f"{{o}}:r:{rids[1].hex()}", "not packed"))
        replies = await asyncio.gather(
            *(ledger.reserve("o", rid, admission(rid)) for rid in rids), return_exceptions=True
        )
        assert [replies[0], replies[2]] == ["OK", "OK"]
        assert isinstance(replies[1], LedgerUnavailable)
        await ledger.close()

    async def test_eviction_is_refused(self, server: Server) -> None:
        """check() passes under noeviction and names the policy otherwise."""
        ledger = RedisLedger(server.url)
        assert await ledger.check() is None
        await ledger._link.call(("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"))  # pyright: ignore
        with pytest.raises(LedgerMisconfigured, match="allkeys-lru"):
            await ledger.check()
        await ledger.close()

    async def test_acl_and_database(self, server: Server) -> None:
        """User, password and database of the URL are used; a forbidden CONFIG is only a warning."""
        admin = RedisLedger(server.url)
        await admin._link.call(("ACL", "SETUSER", "gw", "on", ">pw", "~*", "+@all", "-config"))  # pyright: ignore
        ledger = RedisLedger(server.url.replace("unix://", "unix://gw:pw@") + "?db=3")
        assert "noeviction" in str(await ledger.check())
        rid = make_rid()
        assert await ledger.reserve("o", rid, admission(rid)) == "OK"
        assert await admin.begin("o", rid, 1, need(1)) == "GONE"
        wrong = RedisLedger(server.url.replace("unix://", "unix://gw:no@"))
        with pytest.raises(LedgerUnavailable, match="WRONGPASS"):
            await wrong.reserve("o", rid, b"")
        for store in (admin, ledger, wrong):
            await store.close()

    async def test_full_server_still_closes(self, server: Server) -> None:
        """When memory is full no reservation is granted, but what is open can be settled."""
        ledger = RedisLedger(server.url)
        rid = make_rid()
        await ledger.reserve("o", rid, admission(rid))
        await ledger._link.call(("CONFIG", "SET", "maxmemory", 1))  # pyright: ignore
        with pytest.raises(LedgerUnavailable, match="OOM"):
            await ledger.reserve("o", make_rid(), b"")
        assert await ledger.end("o", rid, 1, used(1), final=True) == "DONE"
        await ledger.close()


_numbers = st.integers(0, 2)  # which of three requests, which of three attempts
_leases = st.sampled_from([OVER, 600_000])
OPERATIONS = st.one_of(
    st.tuples(st.just("reserve"), _numbers, _leases),
    st.tuples(st.just("begin"), _numbers, _numbers, _leases),
    st.tuples(st.just("end"), _numbers, _numbers, st.booleans(), st.sampled_from([None, 0, 9])),
    st.tuples(st.just("finish"), _numbers),
    st.tuples(st.just("renew"), _numbers, _leases),
    st.tuples(st.just("expire"), _numbers),
    st.tuples(st.just("sweep")),
)


async def perform(ledger: Store, org: str, rids: list[bytes], operation: tuple[Any, ...]) -> Any:
    """Run one drawn operation and return its code."""
    match operation:
        case "reserve", request, lease:
            return await ledger.reserve(org, rids[request], admission(rids[request]), lease)
        case "begin", request, number, lease:
            return await ledger.begin(org, rids[request], number, need(number), lease)
        case "end", request, number, final, cost:
            row = OTHER_ROW if number == 2 else ROW
            return await ledger.end(org, rids[request], number, used(number, cost, row), final=final)
        case "finish", request:
            return await ledger.finish(org, rids[request])
        case "renew", request, lease:
            return await ledger.renew(org, [rids[request]], lease)
        case "expire", request:
            return await ledger.expire(org, rids[request])
        case _:
            return await ledger.sweep(org)


def by_backend(rows: list[dict[str, str | int]]) -> list[dict[str, str | int]]:
    return sorted(rows, key=lambda row: str(row["backend"]))


@pytest.mark.parametrize("kind", SERVERS)
def test_twin_agrees(kind: str) -> None:
    """Any sequence of calls gives the same codes, records and rollups in memory and on a server.

    In both, each request has at most one primary record and no request is counted twice.
    """
    server = Server(kind)

    async def compare(operations: list[tuple[Any, ...]]) -> None:
        org, rids = uuid.uuid4().hex, [make_rid() for _ in range(3)]
        twin, store = MemoryTreasury(), RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        try:
            for operation in operations:
                expected = await perform(twin, org, rids, operation)
                assert expected == await perform(store, org, rids, operation), operation
            records = await store.records(org)
            # A sweep closes in order of leases, the twin in order of arrival.
            order = lambda record: record.SerializeToString(deterministic=True)  # noqa: E731
            assert sorted(await twin.records(org), key=order) == sorted(records, key=order)
            rows = by_backend(await store.rollups(org, DAY))
            assert by_backend(await twin.rollups(org, DAY)) == rows
            primary = [record.admission.request_id for record in records if record.state != "late"]
            assert len(primary) == len(set(primary))
            assert sum(int(row["requests"]) for row in rows) <= len(primary)
        finally:
            await store.close()

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(OPERATIONS, min_size=1, max_size=40))
    def run(operations: list[tuple[Any, ...]]) -> None:
        asyncio.run(compare(operations))

    try:
        run()
    finally:
        server.remove()
