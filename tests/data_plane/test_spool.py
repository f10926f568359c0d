"""Through the real data plane without the store: what is dispatched is bounded, and charged exactly once afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from extproc.ledger.redis_treasury import RedisTreasury
from extproc.ledger.seen import WRITE_EVERY
from extproc.ledger.spool import SUFFIX
from tests.contract.ledger_servers import SURE, Server
from tests.data_plane import upstream as up
from tests.data_plane.conftest import Plane, running

CONFIG = """\
listen: 127.0.0.1:{{port}}
admin: 127.0.0.1:{{admin}}
envoy_admin: 127.0.0.1:{{envoy_admin}}
workers: 2
redis: "{url}"
backends:
  oa0: {{{{schema: openai, dialect: openai, base_url: "http://127.0.0.1:{{up}}/oa0/v1", api_key: sk-0, location: cloud,
         models: {{{{m: {{{{usd_per_million_input: 1000, usd_per_million_output: 1000}}}}}}}}}}}}
chains: {{{{cloud: [oa0/m], local: [oa0/m]}}}}
budgets: [{{{{for: {{{{org: default}}}}, usd: 40, per: total}}}}]
money: {{{{{money}}}}}
"""
PURSE = "allow: {{usd: 12, requests: 50, for: 10m}}"
COST = 1_100_000_000
"""Of an answer; its bound is about $1.90."""


@dataclass
class Shop:
    """A gateway whose store can be killed."""

    plane: Plane
    store: Server

    def ask(self, **more):
        """One request."""
        return self.plane.chat("cloud", max_completion_tokens=100, **more)

    def read(self):
        """(spent, reserved, debt), records."""
        async def inside():
            ledger = RedisTreasury(self.store.url, connect_timeout=2, call_timeout=5)
            try:
                windows = (await ledger.audit("default")).windows
                [window] = windows
                return (window.spent, window.reserved, window.debt), await ledger.records("default", 1000)
            finally:
                await ledger.close()

        return asyncio.run(inside())

    def end_leases(self) -> None:
        """Let the two minutes pass that the store waits for a worker that was killed before it could write anything."""
        async def inside() -> None:
            ledger = RedisTreasury(self.store.url, connect_timeout=2, call_timeout=5)
            try:
                for rid in await ledger.door.call(("ZRANGE", "{default}:x", 0, -1)):
                    await ledger.door.call(("ZADD", "{default}:x", "XX", 0, rid))
                await ledger.sweep("default")
            finally:
                await ledger.close()

        asyncio.run(inside())

    def until(self, records: int, seconds: float = 15):
        """Wait for so many records; return as `read`."""
        deadline = time.monotonic() + seconds
        while True:
            state, found = self.read()
            if len(found) >= records or time.monotonic() > deadline:
                return state, found
            time.sleep(0.1)

    def workers(self) -> list[int]:
        """Their processes."""
        return self.plane.pids("extproc.server.worker")

    @property
    def waiting(self) -> int:
        """Bytes in the spool."""
        return sum(path.stat().st_size for path in (self.plane.state / "spool").glob(f"*{SUFFIX}"))


@contextlib.contextmanager
def shop(upstream, money: str) -> Iterator[Shop]:
    """A gateway with one budget of $40 at a store of its own."""
    upstream.reset()
    store = Server("valkey", *SURE)
    try:
        with running(upstream, template=CONFIG.format(url=store.url, money=money)) as plane:
            yield Shop(plane, store)
    finally:
        store.remove()
        upstream.reset()


def answer(pause: float = 0.0):
    """A provider's answer that costs $1.10."""
    script = up.openai_json()
    body = json.loads(script.chunks[0])
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return replace(script, chunks=[json.dumps({**body, "usage": usage}).encode()], first_pause=pause)


def test_allow_is_bounded_and_charged_once(_upstream) -> None:
    """The store dies amid traffic, workers die amid requests, the store comes back: the ledger is what was dispatched."""
    with shop(_upstream, PURSE) as one:
        plane = one.plane
        _upstream.always["oa0"] = answer()
        assert one.ask().status == 200
        assert one.until(1)[0] == (COST, 0, 0)
        one.store.kill()
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda _: one.ask(), range(24)))
        answered = [a for a in got if a.status == 200]
        refused = [a for a in got if a.status != 200]
        assert {a.status for a in refused} == {503}, "two purses of $12 do not hold 24 requests of $1.10"
        assert refused[0].headers["retry-after"]
        assert 6 <= len(answered) <= 20  # most of it may have come to one worker
        assert len(_upstream.seen) == 1 + len(answered), "what is refused reaches no provider"
        assert one.waiting > 0

        # One purse may have room for another request: it is killed while it runs, and costs its bound.
        _upstream.always["oa0"] = answer(pause=1.0)
        seen = len(_upstream.seen)
        with ThreadPoolExecutor(4) as pool:
            cut = [pool.submit(one.ask) for _ in range(4)]
            time.sleep(0.5)
            for pid in one.workers():
                os.kill(pid, signal.SIGKILL)
            ended = [f.result() for f in cut]
        assert all(a.status != 200 for a in ended)
        left = len(_upstream.seen) - seen
        one.store.start()
        state, records = one.until(1 + len(answered) + left)
        assert len(records) == 1 + len(answered) + left
        deltas = [r.delta_nano_usd for r in records]
        assert deltas[:1] == [COST]
        assert sorted(deltas)[: 1 + len(answered)] == [COST] * (1 + len(answered))
        assert all(COST < delta < 2 * COST for delta in sorted(deltas)[1 + len(answered) :]), "their bound, in full"
        assert state[0] + state[2] == sum(deltas)
        assert state[1] == 0
        assert one.waiting == 0
        ids = {a.headers["x-extproc-request-id"] for a in answered}
        told = [r.admission.request_id for r in records if r.state == "orphan"]
        assert ids <= set(told)
        assert len(told) == len(set(told)) == len(answered) + left

        # The purses are full again, and the store serves.
        _upstream.always["oa0"] = answer()
        deadline = time.monotonic() + 10
        while one.ask().status != 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert plane.process.poll() is None


def test_the_store_dies_amid_traffic(_upstream) -> None:
    """Requests in every state when the store dies, workers killed amid what they send without it: whatever reached the
    provider is charged once, at its cost where somebody could tell it, else at its bound."""
    with shop(_upstream, "allow: {{usd: 500, requests: 500, for: 10m}}") as one:
        _upstream.always["oa0"] = answer(pause=0.15)
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(one.ask) for _ in range(160)]
            time.sleep(0.5)
            one.store.kill()
            time.sleep(1.0)
            for pid in one.workers():
                os.kill(pid, signal.SIGKILL)
            got = [f.result() for f in asked]
        sent = len(_upstream.seen)
        whole = {a.headers["x-extproc-request-id"] for a in got if a.status == 200}
        assert len(whole) > 30
        one.store.start()
        time.sleep(3.0)  # what the dead left on disk is there now
        one.end_leases()
        deadline = time.monotonic() + 20
        while True:
            state, records = one.read()
            paid: dict[str, int] = {}
            for record in records:
                if record.delta_nano_usd:
                    known = paid.setdefault(record.admission.request_id, 0)
                    paid[record.admission.request_id] = known + record.delta_nano_usd
            if (len(paid) >= sent and one.waiting == 0) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert {paid.get(rid) for rid in whole} == {COST}
        # An intent whose worker died before Envoy sent anything is charged too: nobody can tell.
        assert sent <= len(paid) <= sent + 12
        # One that was cut because the worker of its other stage died is charged by what was seen of it.
        assert {rid: amount for rid, amount in paid.items() if not 0 < amount < 2 * COST} == {}
        assert state[0] + state[2] == sum(paid.values())
        assert one.waiting == 0


def test_deny_keeps_what_ran(_upstream) -> None:
    """Under deny nothing new is dispatched; what ran when the store died is settled once it is back, at its cost."""
    with shop(_upstream, "store_down: deny") as one:
        _upstream.always["oa0"] = answer(pause=1.0)
        with ThreadPoolExecutor(6) as pool:
            running_ones = [pool.submit(one.ask) for _ in range(6)]
            deadline = time.monotonic() + 10
            while len(_upstream.seen) < 6 and time.monotonic() < deadline:  # all are with the provider
                time.sleep(0.01)
            one.store.kill()
            assert [f.result().status for f in running_ones] == [200] * 6
        assert one.ask().status == 503
        deadline = time.monotonic() + 5
        while one.waiting == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        one.store.start()
        state, records = one.until(6)
        assert ([r.state for r in records], state) == (["done"] * 6, (6 * COST, 0, 0))
        assert one.waiting == 0


def test_shutdown_without_the_store_loses_nothing(_upstream, tmp_path: Path) -> None:
    """A gateway that is ended while the store is away leaves its settlements on disk; the next one delivers them."""
    store = Server("valkey", *SURE)
    money = f"store_down: deny, spool: {tmp_path / 'spool'}"
    template = CONFIG.format(url=store.url, money=money)
    try:
        with running(_upstream, template=template) as plane:
            one = Shop(plane, store)
            _upstream.always["oa0"] = answer(pause=0.8)
            with ThreadPoolExecutor(3) as pool:
                running_ones = [pool.submit(one.ask) for _ in range(3)]
                time.sleep(0.5)
                store.kill()
                assert [f.result().status for f in running_ones] == [200] * 3
        assert [path for path in (tmp_path / "spool").glob(f"*{SUFFIX}") if path.stat().st_size]
        store.start()
        with running(_upstream, template=template) as plane:
            state, records = Shop(plane, store).until(3)
            assert ([r.state for r in records], state) == (["done"] * 3, (3 * COST, 0, 0))
        assert list((tmp_path / "spool").glob(f"*{SUFFIX}")) == []
    finally:
        store.remove()
        _upstream.reset()


def test_a_store_that_went_back_is_refused(_upstream) -> None:
    """A store restored from an older snapshot misses spend: requests under budgets are refused until it is rebuilt."""
    with shop(_upstream, "store_down: deny") as one:
        _upstream.always["oa0"] = answer()
        assert one.ask().status == 200
        one.until(1)
        one.store.kill()
        old = {p: p.read_bytes() for p in one.store.folder.rglob("*") if p.is_file()}
        one.store.start()
        time.sleep(1.1)
        assert [one.ask().status for _ in range(3)] == [200] * 3
        one.until(4)
        time.sleep(WRITE_EVERY + 0.2)
        one.ask()  # from here on the file tells both workers how far the records are
        time.sleep(1.1)
        assert one.ask().status == 200
        one.until(6)  # else a settlement under way would reach the old store, as it should
        one.store.kill()
        for path in one.store.folder.rglob("*"):
            if path.is_file() and path not in old:
                path.unlink()
        for path, data in old.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        one.store.start()
        assert [one.ask().status for _ in range(4)] == [503] * 4
        assert one.read()[0] == (COST, 0, 0)
        words = ["budgets", "rebuild", "--force", "--redis-url", one.store.url, "-c", str(one.plane.config)]
        done = subprocess.run([sys.executable, "-m", "extproc.cli", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [one.ask().status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("harm", ["a file in its place"])
def test_an_unusable_spool_is_told_at_the_start(_upstream, tmp_path: Path, harm: str) -> None:
    """A gateway whose spool cannot be written does not start, and says which folder and what to do."""
    (tmp_path / "spool").write_text(harm)
    money = f"spool: {tmp_path / 'spool'}"
    store = Server("valkey", *SURE)
    try:
        with (pytest.raises(AssertionError, match=r"spool folder .* cannot be used"),
              running(_upstream, template=CONFIG.format(url=store.url, money=money))):
            pass
    finally:
        store.remove()

