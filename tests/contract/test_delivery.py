"""Settlements reach the store exactly once: through its absence, through the death of processes, and late."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from extproc.ledger import delivery as module
from extproc.ledger.base import LedgerUnavailable, Mark
from extproc.ledger.dead_letters import NAME, read
from extproc.ledger.delivery import Delivery
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.ledger.spool import Entry, Spool
from extproc.money.amounts import HORIZON_MS, Account, Unit
from tests.contract.ledger_kit import DAY, OVER, STARTED, Desk, Store, budget, make_rid, now_ms, usd, used
from tests.contract.ledger_servers import Server

STORE = "redis://here:6379/0"
BUDGETS = (usd("org", 1000),)


def entry(org: str, rid: bytes, cost: int = 7, number: int = 1, **more: Any) -> Entry:
    """What a performer gives to the delivery."""
    return Entry(org, rid, number, used(number, cost), True, Account(BUDGETS), **more)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HASTE", (0.0, 0.01))
    monkeypatch.setattr(module, "PATIENCE", (0.0, 0.01, 0.02))
    monkeypatch.setattr(module, "LATEST", 0.2)
    monkeypatch.setattr(module, "IDLE", 0.05)


@pytest.fixture
async def own(server: Server, org: str) -> AsyncIterator[Desk]:
    """An org in a store that may be harmed."""
    store = RedisTreasury(server.url, connect_timeout=0.2, call_timeout=0.3)
    desk = Desk(store, org)
    await desk.publish()
    yield desk
    await store.close()


async def until(condition: Any, seconds: float = 10) -> None:
    """Wait until something holds."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to hold")


# ------------------------------------------------------------------------------------ what the store is asked


async def test_an_open_attempt_is_known(desk: Desk, ledger: Store, org: str) -> None:
    """An attempt is open from its begin to its end, also behind a finish, and when it was charged in full."""
    rid = await desk.open(100, *BUDGETS)
    assert not await ledger.is_open(org, rid, 1)
    await desk.begin(rid, 1, 100)
    await ledger.finish(org, rid)
    assert await ledger.is_open(org, rid, 1)
    assert not await ledger.is_open(org, rid, 2)
    await desk.end(rid, 1, 5)
    assert not await ledger.is_open(org, rid, 1)
    rid = await desk.open(100, *BUDGETS, lease=OVER)
    await desk.begin(rid, 1, 100, lease=OVER)
    await ledger.sweep(org)
    assert await ledger.is_open(org, rid, 1)


async def test_how_far_the_records_are(desk: Desk, ledger: Store, org: str) -> None:
    """Every record takes the stream further, and nothing is lost; a stream that is not there has nothing."""
    assert await ledger.standing(org, Mark()) == (Mark(), False)
    marks = [Mark()]
    for _ in range(3):
        rid = await desk.open(10, *BUDGETS)
        await desk.end(rid, 1, 5)
        mark, lost = await ledger.standing(org, marks[-1])
        assert not lost
        marks.append(mark)
    assert marks == sorted(set(marks))
    assert [mark.added for mark in marks] == [0, 1, 2, 3]
    assert ledger.connections >= 1
    assert (await ledger.standing("another", marks[-1]))[1], "where there is no stream, its records are lost"


async def test_all_attempts_of_a_lost_reservation(desk: Desk, org: str) -> None:
    """A request whose reservation the store has lost is charged for each of its attempts, once, as one request; one that
    it remembers as closed is charged nothing more."""
    budgets = (*BUDGETS, budget("req", Unit.REQUESTS, 9))
    rid = make_rid()
    codes = [(await desk.end(rid, number, 10 * number, *budgets)).code for number in (2, 1, 2, 1, 12, 1)]
    assert codes == ["ORPHAN", "LATE", "DUP", "DUP", "LATE", "DUP"]
    assert (await desk.state(), await desk.state("req")) == ((150, 0, 0), (1, 0, 0))
    assert await desk.states() == ["orphan", "late", "late"]
    assert await desk.row_requests() == 1
    closed = await desk.open(10, *budgets)
    assert [(await desk.end(closed, number, 5)).code for number in (1, 2)] == ["DONE", "DUP"]
    assert (await desk.reserve(rid, budgets=budgets)).code == "GONE"
    await desk.check_rest()


@pytest.mark.parametrize("since", [0, 1, 5])
@pytest.mark.parametrize("trimmed", [False, True])
async def test_a_store_that_went_back(own: Desk, org: str, trimmed: bool, since: int) -> None:
    """Records that were seen and are gone are missed, also when newer ones are there; those that were exported are not."""
    store = own.store
    assert isinstance(store, RedisTreasury)

    async def add(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0.002)
            await own.end(await own.open(10, *BUDGETS), 1, 5)

    log = f"{{{org}}}:log"
    await add(2)
    old = await store.door.call(("DUMP", log))
    await add(8)
    seen, _ = await store.standing(org, Mark())
    await add(since)
    if trimmed:
        await store.door.call(("XTRIM", log, "MAXLEN", 1 if since else 0))
    assert not (await store.standing(org, seen))[1]
    await store.door.call(("RESTORE", log, 0, old, "REPLACE"))
    assert (await store.standing(org, seen))[1]
    await add(since)
    if trimmed:
        await store.door.call(("XTRIM", log, "MAXLEN", 1))
    assert (await store.standing(org, seen))[1]


# ------------------------------------------------------------------------------------ without the store


async def test_an_end_waits_for_the_store(own: Desk, server: Server, org: str, tmp_path: Path) -> None:
    """Ends that a killed store did not take are on disk, and reach it once when it is back."""
    rids = [await own.open(100, *BUDGETS) for _ in range(5)]
    for rid in rids:
        await own.begin(rid, 1, 100)
    spool = Spool(tmp_path, STORE)
    made = Delivery(own.store, spool)
    await asyncio.to_thread(server.kill)
    await asyncio.gather(*(made.settle(entry(org, rid, 7)) for rid in rids))
    assert len(spool) == 5
    running = asyncio.ensure_future(made.run())
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.start)
    await until(lambda: len(spool) == 0)
    running.cancel()
    assert await own.state() == (35, 0, 0)
    assert await own.states() == ["done"] * 5
    await own.check_rest()
    made.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_frozen_store(own: Desk, server: Server, org: str, tmp_path: Path) -> None:
    """A store that stands still and carries everything out later charges once what it is told twice."""
    rid = await own.open(100, *BUDGETS)
    await own.begin(rid, 1, 100)
    spool = Spool(tmp_path, STORE)
    made = Delivery(own.store, spool)
    server.signal(signal.SIGSTOP)
    await made.settle(entry(org, rid, 9))
    assert len(spool) == 1
    server.signal(signal.SIGCONT)
    await made.replay(spool)
    assert len(spool) == 0
    assert await own.state() == (9, 0, 0)
    await own.check_rest()
    made.close()


async def test_the_sweep_was_faster(own: Desk, org: str, tmp_path: Path) -> None:
    """What was charged in full meanwhile is corrected to what it cost."""
    rid = await own.open(100, *BUDGETS, lease=OVER)
    await own.begin(rid, 1, 100, lease=OVER)
    spool = Spool(tmp_path, STORE)
    spool.put(entry(org, rid, 9))
    await own.store.sweep(org)
    assert await own.state() == (100, 0, 0)
    await Delivery(own.store, spool).replay(spool)
    assert await own.state() == (9, 0, 0)
    assert await own.states() == ["expired", "late"]
    await own.check_rest()
    spool.close()


async def test_shutdown_while_the_store_is_away(own: Desk, server: Server, org: str, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends does not wait for its repeats: what the store does not take is on disk at once."""
    monkeypatch.setattr(module, "HASTE", (0.0, 30.0, 30.0))
    rid = await own.open(100, *BUDGETS)
    await own.begin(rid, 1, 100)
    await asyncio.to_thread(server.kill)
    made = Delivery(own.store, Spool(tmp_path, STORE))
    work = asyncio.ensure_future(made.settle(entry(org, rid, 7)))
    await asyncio.sleep(0.3)
    assert not work.done()
    made.hurry()
    await asyncio.wait_for(work, 2)
    made.close()
    await asyncio.to_thread(server.start)
    found = Spool(tmp_path, STORE)
    await Delivery(own.store, found).replay(found)
    assert await own.state() == (7, 0, 0)
    found.close()


WORKER = """
    import asyncio, sys, time
    from pathlib import Path
    from extproc.ledger.delivery import Delivery
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.ledger.spool import Spool
    from tests.contract import ledger_kit
    url, org, folder, ended, begun, ledger_kit.STARTED = *sys.argv[1:6], int(sys.argv[6])  # the same window
    from tests.contract.test_delivery import STORE, entry

    async def main():
        ledger = RedisTreasury(url)
        made = Delivery(ledger, Spool(Path(folder), STORE))
        running = asyncio.ensure_future(made.run())
        await asyncio.gather(*(made.settle(entry(org, bytes.fromhex(rid), 7)) for rid in ended.split(",")))
        for rid in begun.split(","):
            assert made.intend(entry(org, bytes.fromhex(rid), 100))
        print("kept", flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


async def test_a_killed_process_is_replayed_by_the_next(own: Desk, server: Server, org: str, tmp_path: Path) -> None:
    """SIGKILL with the store away: the next process settles outcomes at their cost, and mere intents in full."""
    ended = [await own.open(100, *BUDGETS) for _ in range(3)]
    for rid in ended:
        await own.begin(rid, 1, 100)
    begun = [make_rid() for _ in range(2)]
    await asyncio.to_thread(server.kill)
    words = [server.url, org, str(tmp_path), *[",".join(rid.hex() for rid in rids) for rids in (ended, begun)],
             str(STARTED)]
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WORKER), *words], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert await asyncio.to_thread(worker.stdout.readline) == b"kept\n"
    worker.kill()
    worker.wait()
    worker.stdout.close()
    await asyncio.to_thread(server.start)
    copies = tmp_path.with_name(f"{tmp_path.name}-copies")
    shutil.copytree(tmp_path, copies)
    spool = Spool(tmp_path, STORE)
    await Delivery(own.store, spool).replay(spool)
    assert len(spool) == 0
    assert await own.state() == (3 * 7 + 2 * 100, 0, 0)
    assert sorted(await own.states()) == ["done"] * 3 + ["orphan"] * 2
    # Dead between the store's answer and its note of it: everything comes again.
    again = Spool(copies, STORE)
    await Delivery(own.store, again).replay(again)
    assert await own.state() == (3 * 7 + 2 * 100, 0, 0)
    await own.check_rest()
    spool.close()
    again.close()


async def test_what_budgets_cannot_fund_is_debt(desk: Desk, org: str, tmp_path: Path) -> None:
    """What was dispatched without the store is charged in full: up to the limit as spent, the rest as debt."""
    spool = Spool(tmp_path, STORE)
    for number in range(3):
        spool.put(entry(org, make_rid(), 400 + number))
    told: list[int] = []
    made = Delivery(desk.store, spool, on_ended=lambda _, ended: told.append(ended.unfunded_nano_usd))
    await made.replay(spool)
    assert await desk.state() == (1000, 0, 203)
    assert sorted(told) == [0, 0, 203]
    await desk.check_rest()
    spool.close()


# ------------------------------------------------------------------------------------ which id


async def unsure(desk: Desk, how: str) -> bytes:
    """A reservation whose begin got no answer."""
    lease = OVER if how == "expired" else 120_000
    rid = await desk.open(100, *BUDGETS, lease=lease)
    if how in ("begun", "finished", "expired"):
        await desk.begin(rid, 1, 100, lease=lease)
    if how in ("finished", "unsent"):
        await desk.store.finish(desk.org, rid)
    if how == "expired":
        await desk.store.sweep(desk.org)
    return rid


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize(("how", "states"), [
    ("begun", ["done"]), ("unknown", ["done"]), ("finished", ["done"]), ("expired", ["expired", "late"]),
    ("unsent", ["unsent", "orphan"]),
])
async def test_an_unsure_begin_is_charged_once(desk: Desk, org: str, tmp_path: Path, how: str, states: list[str],
                                               crash: bool) -> None:
    """Whether the store knew of the attempt or not, it is charged once, also when its end is sent twice."""
    rid = await unsure(desk, how)
    spool = Spool(tmp_path, STORE)
    spool.put(entry(org, rid, 9, stray=make_rid(), chosen=False))
    if crash:  # the store takes the end, and the process dies before it can note that
        lost = Delivery(desk.store, spool)
        lost._taken = lambda key: None  # type: ignore[method-assign]
        await lost.replay(spool)
        spool.close()
        spool = Spool(tmp_path, STORE)
    await Delivery(desk.store, spool).replay(spool)
    assert len(spool) == 0
    await desk.store.finish(org, rid)
    assert await desk.states() == states
    assert await desk.state() == (9, 0, 0)
    spool.close()


# ------------------------------------------------------------------------------------ what cannot be delivered


async def test_too_old_is_a_dead_letter(desk: Desk, org: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is older than the store remembers is not charged on a guess: an operator finds it with all facts."""
    old = entry(org, make_rid(now_ms() - HORIZON_MS - 60_000), 9)
    spool = Spool(tmp_path, STORE)
    spool.put(old)
    await Delivery(desk.store, spool).replay(spool)
    assert len(spool) == 0
    [letter] = read(tmp_path / NAME)
    assert (letter.settlement(), letter.cost_nano_usd, letter.team) == (old, 9, "core")
    assert "too old for the store" in caplog.text
    assert await desk.states() == []
    spool.close()


class Gone(MemoryTreasury):
    """A store that does not answer `end`; `answers`: how many it gives."""

    def __init__(self, answers: int = 0) -> None:
        super().__init__()
        self.answers, self.asked = answers, 0

    async def end(self, *words: Any, **named: Any) -> Any:
        """Answer, or not."""
        self.asked += 1
        if self.asked > self.answers:
            raise LedgerUnavailable("gone")
        return await super().end(*words, **named)


@pytest.mark.parametrize("spooled", [False, True])
async def test_what_fits_nowhere_is_told(org: str, tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                         spooled: bool) -> None:
    """Without a spool, or with a full one, a settlement is repeated, and then told with all that corrects the books."""
    spool = Spool(tmp_path, STORE, 10) if spooled else None
    store = Gone()
    await Delivery(store, spool).settle(entry(org, make_rid(), 12_345))
    assert store.asked == 3
    assert "a settlement was not taken by the store" in caplog.text
    for fact in ("cost 12345 n$", "tokens 11+3", f"org {org}", "team 'core'", "model qwen3", f"day {DAY}"):
        assert fact in caplog.text
    if spool is not None:
        assert "does not fit into the spool" in caplog.text
        spool.close()


async def test_a_full_spool_allows_nothing(org: str, tmp_path: Path) -> None:
    """What cannot be written down is not dispatched without the store; nor is anything without a spool."""
    spool = Spool(tmp_path, STORE, 10)
    assert not Delivery(MemoryTreasury(), spool).intend(entry(org, make_rid()))
    assert not Delivery(MemoryTreasury()).intend(entry(org, make_rid()))
    spool.close()


async def test_an_outcome_that_does_not_fit_ends_its_intent(org: str, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the end of an attempt: the store is told directly, and the intent is not charged too."""
    spool, store = Spool(tmp_path, STORE), MemoryTreasury()
    made, rid = Delivery(store, spool), make_rid()
    assert made.intend(entry(org, rid, 100))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        await made.settle(entry(org, rid, 9))
    spool.close()
    found = Spool(tmp_path, STORE)
    await Delivery(store, found).replay(found)
    assert [record.delta_nano_usd for record in await store.records(org)] == [9]
    found.close()


async def test_one_bad_entry_holds_nothing_up(org: str, tmp_path: Path) -> None:
    """An entry that the store keeps refusing waits, and those behind it arrive."""

    class Picky(MemoryTreasury):
        async def end(self, org: str, rid: bytes, *words: Any, **named: Any) -> Any:
            if rid == bad:
                raise LedgerUnavailable("ERR no")
            return await super().end(org, rid, *words, **named)

    bad, store, spool = make_rid(), Picky(), Spool(tmp_path, STORE)
    drained: list[int] = []
    made = Delivery(store, spool, on_drained=lambda: drained.append(1))
    for rid in (bad, make_rid(), make_rid()):
        spool.put(entry(org, rid))
    with pytest.raises(LedgerUnavailable, match="ERR no"):
        await made.replay(spool)
    assert (len(spool), len(await store.records(org)), drained) == (1, 2, [])
    spool.close()


async def test_the_purse_is_told_when_all_is_there(org: str, tmp_path: Path) -> None:
    """`on_drained` comes once after an outage: when the store answers and has everything that ended."""
    store, drained = Gone(), list[int]()
    spool = Spool(tmp_path, STORE)
    made = Delivery(store, spool, on_drained=lambda: drained.append(1))
    await made.replay(spool)
    assert drained == [], "there was no outage"
    first, second = entry(org, make_rid(), 100), entry(org, make_rid(), 100)
    assert made.intend(first)
    assert made.intend(second)
    await made.settle(first)
    with pytest.raises(LedgerUnavailable):
        await made.replay(spool)
    assert drained == []
    store.answers = 99
    await made.replay(spool)
    await made.replay(spool)
    assert (drained, len(spool)) == ([1], 1), "the second still runs"
    await made.settle(second)
    await made.replay(spool)
    assert (drained, len(spool)) == ([1, 1], 0)
    spool.close()


async def test_a_process_that_ends_does_not_spin(org: str, tmp_path: Path) -> None:
    """Once the process is to end, a replay that fails is the last one."""
    spool, store = Spool(tmp_path, STORE), Gone()
    spool.put(entry(org, make_rid()))
    made = Delivery(store, spool)
    made.hurry()
    await asyncio.wait_for(made.run(), 2)
    assert store.asked == 1
    made.close()
