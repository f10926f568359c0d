"""A store that is started over older data: what a worker recorded in it, be it a moment before, is missed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from extproc.core.admission import Identity, Plan
from extproc.ledger.base import Mark, Settlement
from extproc.ledger.keyspace import keys_of
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import Account, Option
from extproc.server.treasurer import Treasurer
from tests.contract.ledger_kit import OVER, ROW, Desk, attempt, make_rid, usd
from tests.contract.ledger_servers import Server
from tests.stage_kit import runtime

BUDGETS = "budgets: [{for: {team: web}, usd: 100, per: total}]\n"


class Worker:
    """A treasurer with a connection of its own."""

    def __init__(self, server: Server, org: str, seen: Path) -> None:
        self.store, self.org = RedisTreasury(server.url, connect_timeout=2, call_timeout=5), org
        self.treasurer = Treasurer(self.store, runtime(BUDGETS), 1, seen)

    async def reserve(self) -> tuple[str, bytes]:
        """Reserve a request; return the answer and its id."""
        rid = make_rid()
        plan = Plan(Identity(self.org, "web"), (), (Option(fixed_nano_usd=7),), ())
        return (await self.treasurer.reserve(self.org, rid, b"", plan)).code, rid

    async def request(self) -> str:
        """Reserve and settle one; return what the reservation was answered."""
        code, rid = await self.reserve()
        if code == "OK":
            await self.store.end(self.org, rid, 1, Settlement(attempt(1), 7, 1, 1, ROW), final=True, account=Account())
        return code


async def test_a_record_of_a_moment_ago_is_missed(server: Server, org: str, tmp_path: Path) -> None:
    """One request was settled in what is gone: its worker refuses, also after it is started anew, and all others do."""
    one, other = (Worker(server, org, tmp_path / "seen") for _ in range(2))
    assert [await worker.request() for worker in (one, other, one)] == ["OK"] * 3
    code, rid = await one.reserve()
    assert code == "OK"
    older = shutil.copytree(server.folder, tmp_path / "older", ignore=shutil.ignore_patterns("s"))
    await one.store.end(org, rid, 1, Settlement(attempt(1), 7, 1, 1, ROW), final=True, account=Account())
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(older, server.folder, dirs_exist_ok=True)
    await asyncio.to_thread(server.start)

    await other.store.end(org, rid, 1, Settlement(attempt(1), 7, 1, 1, ROW), final=True, account=Account())
    assert await one.request() == "EMPTY"
    one.treasurer.remember(now=True)
    anew = Worker(server, org, tmp_path / "seen")
    assert [await worker.request() for worker in (one, anew)] == ["EMPTY"] * 2
    other.treasurer._read_at = other.treasurer._books[org].look_at = 0.0  # a second has passed
    assert await other.request() == "EMPTY", "what one worker knows to be gone is gone for all"
    for worker in (one, other, anew):
        await worker.store.close()


async def test_a_store_started_again_has_all(server: Server, org: str, tmp_path: Path) -> None:
    """A killed server comes back with every record that it told of, and is not suspected."""
    one = Worker(server, org, tmp_path / "seen")
    for _ in range(3):
        assert [await one.request() for _ in range(5)] == ["OK"] * 5
        server.kill()
        await asyncio.to_thread(server.start)
    await one.store.close()


async def test_every_record_is_told(server: Server, org: str) -> None:
    """The id of each record that end, finish and expire append, in order, and nothing where they append none."""
    store = RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
    desk = Desk(store, org)
    await desk.publish()
    told: list[tuple[str, Mark]] = []
    store.on_recorded = lambda org, mark: told.append((org, mark))
    ended, unsent, dead = [await desk.open(10, usd(), lease=lease) for lease in (120_000, 120_000, OVER)]
    await desk.begin(dead, 1, 10, lease=OVER)
    for _ in range(2):
        await desk.end(ended, 1, 5, usd())
    await store.finish(org, ended)
    await store.finish(org, unsent)
    await store.sweep(org)
    await desk.end(dead, 1, 3, usd())
    await desk.end(make_rid(), 1, 4, usd())
    await store.renew(org, [ended])
    entries: Any = await store.door.call(("XRANGE", keys_of(org).log, "-", "+"))
    assert [(org, Mark(*map(int, entry.split(b"-")))) for entry, _ in entries] == told
    assert len(told) == 5
    await store.close()
