"""Chaos through the real data plane: Envoy, two workers and a store against a provider that keeps its own bill.

    python -m tests.chaos.data_plane --requests 20000 --concurrency 200 --store embedded|redis|cluster|tls [--lying]
    python -m tests.chaos.data_plane --requests 5000 --store redis --allow 0.2

Clients stream, leave and come again; providers refuse, break off and stall; workers and the store are killed; leases
end under running requests. What must hold meanwhile and at the end is in docs/chaos.md. The exit code is 1 when it did
not, or when something that the run is there to test never happened.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp

from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.redis_treasury import RedisTreasury
from tests.chaos.data_plane_judge import Facts, Judge, Try, in_words, window_faults
from tests.chaos.data_plane_provider import MOST_TOKENS, Provider
from tests.chaos.data_plane_world import (
    CHAINS,
    LEASES,
    ORG,
    TEAMS,
    WORKERS,
    Gateway,
    Place,
    Rules,
    configuration,
    ledger_at,
    running,
    secret,
)
from tests.chaos.data_plane_world import ports as free_ports

PATHS = (
    "client complete", "refused by a budget", "client error", "client aborted", "client tried again", "worker killed",
    "leases ended early", "audits", "several attempts", "budget used up", "record done", "record unsent",
    "record expired", "record late", "attempt exact", "attempt estimated", "attempt failed",
    "answered, charged exactly", "provider: reset", "provider: 429", "provider: overloaded first", "provider: cut",
)  # fmt: skip
"""What a run of some hundred requests must have met."""
DRAINED_WITHIN = 60.0
"""Seconds after which what waits on disk will never reach a store that is there."""
TRIES = 3
PATIENCE = 20.0
"""Seconds that a client waits for anything."""


class Chaos:
    """One run. `tamper`: done to the store once a third is over, to see that the run then fails."""

    def __init__(
        self, requests: int, *, concurrency: int = 200, store: str = "embedded", seed: int = 1, lying: bool = False,
        kill_every: float = 3.0, strikes: int = 1, quiet: float = 3.0, purse: float = 0.0, away: float = 2.0,
        tamper: Callable[[RedisTreasury], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        """`strikes`: how often the store is killed; `quiet`: seconds without a change after which nothing is due.
        `purse`: dollars of each worker that go on without the store, which then stays away for `away` seconds."""
        self.requests, self.concurrency, self.lying, self.quiet = requests, concurrency, lying, quiet
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self._place = Place(store)
        self._provider = Provider(seed, lying)
        self._kill_every, self._strikes, self._tamper = kill_every, strikes, tamper
        self.purse, self._away = purse, away
        self._tries: dict[str, Try] = {}
        self._bodies: dict[str, tuple[str, bytes]] = {}
        self._watched: dict[str, None] = {}
        self._kills: list[float] = []
        self._over = False
        self._started = self._done = 0
        self.envoy: Counter[str] = Counter()
        self._days: set[str] = set()

    async def run(self) -> Facts:
        """Play all requests and return what is known at rest."""
        await self._provider.start()
        ports = free_ports()
        store = "embedded" if self._place.kind in ("cluster", "tls") else self._place.url  # these come by REDIS_URL
        replicas = self._place.kind == "cluster"
        text = configuration(self.requests, ports, self._provider.port, store, replicas=replicas,
                             purse=self.purse)
        self._rules = Rules(text)
        try:
            async with running(text, self._place, ports["listen"]) as gateway:
                self._ledger = ledger_at(gateway.store_url(self._place))
                return await self._play(gateway)
        finally:
            await self._provider.stop()
            self._place.remove()

    async def _play(self, gateway: Gateway) -> Facts:
        self._day()
        jobs = (self._killer(gateway), self._striker(gateway), self._lease_cutter(), self._auditor(), self._tampering())
        watchers = [asyncio.ensure_future(job) for job in jobs]
        began = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}", connector=connector) as session:
            await asyncio.gather(*(self._client(session) for _ in range(self.concurrency)))
        self.seen["seconds of traffic"] = round(time.monotonic() - began)
        self._over = True
        await asyncio.gather(*watchers)
        if self.purse:
            await self._drained(gateway)
            if gateway.waiting:
                self._watched[f"{gateway.waiting} bytes of settlements never reached the store"] = None
        await self._rest()
        facts = await self._facts()
        facts.watched += gateway.complaints()
        self.envoy = gateway.answers()
        await self._ledger.close()
        return facts

    def _day(self) -> None:
        self._days.add(datetime.now(UTC).strftime("%Y-%m-%d"))

    def _chance(self, percent: float) -> bool:
        return self.random.random() * 100 < percent

    # ------------------------------------------------------------------------------------ clients

    async def _client(self, session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(self.random.uniform(0, 0.5))
        while self._started < self.requests:
            self._started += 1
            await self._request(session, self._started)
            self._done += 1

    async def _request(self, session: aiohttp.ClientSession, serial: int) -> None:
        """One request as a client library makes it: tried again where that may help, or when its user is impatient."""
        roll = self.random
        team = roll.choices(list(TEAMS), list(TEAMS.values()))[0]
        chain, anthropic, stream = roll.choice(list(CHAINS)), self._chance(50), self._chance(60)
        most = None if self._chance(15) and not anthropic else roll.randint(50, MOST_TOKENS)
        words = "x " * roll.randint(1, 800)
        for number in range(TRIES):
            marker = f"{chain}-r{serial}t{number}"
            asked: dict[str, Any] = {
                "model": marker, "messages": [{"role": "user", "content": f"[{marker}] {words}"}], "stream": stream,
                **({"max_tokens" if anthropic or self._chance(50) else "max_completion_tokens": most} if most else {}),
            }  # fmt: skip
            body = json.dumps(asked).encode()
            self._bodies[marker] = ("anthropic" if anthropic else "openai", body)
            one = self._tries[marker] = Try(marker, team, started=time.monotonic())
            leaves = "" if not self._chance(12) else roll.choice(("before", "before", "within"))
            again = await self._try(session, one, body, anthropic=anthropic, stream=stream, leaves=leaves)
            one.ended = time.monotonic()
            if not again:
                return
            self.seen["client tried again"] += 1
            await asyncio.sleep(roll.uniform(0.2, 0.8))

    async def _try(
        self, session: aiohttp.ClientSession, one: Try, body: bytes, *, anthropic: bool, stream: bool, leaves: str
    ) -> bool:
        """Send it once; returns whether the client tries again."""
        path = "/v1/messages" if anthropic else "/v1/chat/completions"
        headers = {"content-type": "application/json", "authorization": f"Bearer {secret(one.team)}"}
        wait = self.random.uniform(0.005, 0.25) if leaves == "before" else PATIENCE
        try:
            async with asyncio.timeout(PATIENCE):
                async with asyncio.timeout(wait) as patience:
                    response = await session.post(path, data=body, headers=headers)
                    patience.reschedule(None)
                async with response:
                    return await self._read(response, one, stream=stream, leaves=leaves)
        except TimeoutError:
            one.outcome = "aborted"
            return self._chance(30)
        except aiohttp.ClientError:
            one.outcome = "broken"
            return True

    async def _read(self, response: aiohttp.ClientResponse, one: Try, *, stream: bool, leaves: str) -> bool:
        one.status, one.rid = response.status, response.headers.get("x-extproc-request-id", "")
        if "x-extproc-cost-usd" in response.headers:
            whole, _, fraction = response.headers["x-extproc-cost-usd"].partition(".")
            one.told_cost = int(whole + fraction)
        read = b""
        async for chunk in response.content.iter_any():
            read += chunk
            if leaves == "within" and response.status == 200 and stream:
                response.close()
                one.outcome = "aborted"
                return self._chance(30)
        if response.status == 200:
            ends = b"data: [DONE]" in read or b"event: message_stop" in read
            one.outcome = "complete" if (ends if stream else bool(json.loads(read))) else "broken"
            return one.outcome == "broken" and self._chance(50)
        final = response.headers.get("x-should-retry") == "false"
        one.outcome = "refused" if response.status == 429 and final else "error"
        self.seen[f"status {response.status}"] += 1
        self.seen["refused by a budget"] += b"limit reached" in read
        if not in_words(read, anthropic=response.url.path == "/v1/messages"):
            one.strange = read[:120].decode(errors="replace") or "nothing"
        return not final and (response.status == 429 or response.status >= 500)

    # ------------------------------------------------------------------------------------ chaos

    async def _killer(self, gateway: Gateway) -> None:
        """Kill a worker every few seconds."""
        while not self._over:
            await self._sleep(self._kill_every * self.random.uniform(0.6, 1.4))
            if not self._over and gateway.kill_worker():
                self._kills.append(time.monotonic())
                self.seen["worker killed"] += 1

    async def _striker(self, gateway: Gateway) -> None:
        """Kill the store at even distances."""
        for number in range(1, self._strikes + 1):
            while not self._over and self._done < self.requests * number / (self._strikes + 1):
                await asyncio.sleep(0.05)
            if not self._over and self.purse:
                if await self._place.leave(gateway, self._away):
                    self._kills.append(time.monotonic())
                    self.seen["worker killed"] += 1
                self.seen["store killed"] += 1
                await self._drained(gateway)
            elif not self._over:
                self.seen[await self._place.strike(gateway)] += 1

    async def _drained(self, gateway: Gateway) -> None:
        """Wait until all that went on without the store is there: the purses are full again."""
        deadline = time.monotonic() + DRAINED_WITHIN
        while gateway.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    async def _lease_cutter(self) -> None:
        """End the leases of a few running requests, as a worker that stands still for minutes would let them end."""
        while not self._over:
            await self._sleep(0.4)
            with contextlib.suppress(LedgerUnavailable):
                rids: list[bytes] = await self._ledger.door.call(("ZRANDMEMBER", LEASES, 3))
                await self._end_leases(rids)
                self.seen["leases ended early"] += await self._ledger.sweep(ORG)

    async def _end_leases(self, rids: list[bytes]) -> None:
        """As if the leases' two minutes were over: no call of the ledger makes one shorter."""
        for rid in rids:
            await self._ledger.door.call(("ZADD", LEASES, "XX", 0, rid))

    async def _auditor(self) -> None:
        """Look at all windows, all the time."""
        while not self._over:
            await asyncio.sleep(0.03)
            try:
                audit = await self._ledger.audit(ORG)
            except LedgerUnavailable:
                self.seen["audits without the store"] += 1
                continue
            self.seen["audits"] += 1
            for window in audit.windows:
                for fault in window_faults(window, self._rules.limit_of, debt=self.lying or self.purse > 0):
                    self._watched[f"while it ran: {fault}"] = None

    async def _tampering(self) -> None:
        if self._tamper is None:
            return
        while not self._over and self._done < self.requests / 3:
            await asyncio.sleep(0.05)
        await self._tamper(self._ledger)

    async def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._over and time.monotonic() < end:
            await asyncio.sleep(0.05)

    # ------------------------------------------------------------------------------------ at rest

    async def _rest(self) -> None:
        """Wait for what living workers still say; then end the leases of what dead ones left, and sweep."""
        await self._unchanged()
        left: list[bytes] = await self._ledger.door.call(("ZRANGE", LEASES, 0, -1))
        self.seen["left by dead workers"] = len(left)
        await self._end_leases(left)
        while await self._ledger.sweep(ORG):
            pass
        self._day()

    async def _unchanged(self) -> None:
        last: tuple[int, int] = (-1, -1)
        since = time.monotonic()
        while time.monotonic() - since < self.quiet:
            audit = await self._ledger.audit(ORG)
            if audit.open == 0:
                return
            if (audit.open, audit.records) != last:
                last, since = (audit.open, audit.records), time.monotonic()
            await asyncio.sleep(0.1)

    async def _facts(self) -> Facts:
        audit = await self._ledger.audit(ORG)
        if audit.open:
            self._watched[f"{audit.open} reservations are left"] = None
        rollups = [row for day in self._days for row in await self._ledger.rollups(ORG, day)]
        return Facts(
            tries=self._tries, bill=self._provider.bill, records=await self._ledger.records(ORG, 1_000_000),
            windows=list(audit.windows), limit_of=self._rules.limit_of,
            need=lambda marker, backend, granted: self._rules.need(*self._bodies[marker], backend, granted),
            rollups=sum(int(row["cost"]) for row in rollups), kills=self._kills,
            team_limits=self._rules.team_limits, lying=self.lying, watched=list(self._watched),
            purses=round(self.purse * 10**9) * WORKERS * self.seen["store killed"],
        )  # fmt: skip


def report(chaos: Chaos, judge: Judge) -> str:
    """The table of what happened."""
    seen = chaos.seen + judge.seen
    lines = [f"{name:<28}{count:>16,}" for name, count in sorted(seen.items())]
    lines.append("-- of Envoy itself " + "-" * 27)
    lines += [f"{name:<90}{count:>9,}" for name, count in sorted(chaos.envoy.items())]
    lines.append("-- n$ " + "-" * 38)
    lines += [f"{name:<28}{amount:>16,}" for name, amount in sorted(judge.sums.items())]
    lines += [f"{'VIOLATIONS':<28}{len(judge.violations):>16,}", *judge.violations[:40]]
    if missed := missing(chaos, judge):
        lines.append("never happened: " + ", ".join(missed))
    return "\n".join(lines)


def missing(chaos: Chaos, judge: Judge) -> list[str]:
    """The paths that never happened."""
    seen = chaos.seen + judge.seen
    struck = seen["store killed"] + seen["primary killed"]
    paths = (*PATHS, *(("record orphan",) if chaos.purse else ()))
    return [path for path in paths if seen[path] == 0] + ([] if struck else ["store killed"])


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--store", choices=("embedded", "redis", "cluster", "tls"), default="embedded")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--lying", action="store_true", help="some answers report far more than they may")
    parser.add_argument("--allow", type=float, default=0.0, metavar="USD",
                        help="the store stays away for seconds, and each worker goes on with so many dollars")
    parser.add_argument("--kill-every", type=float, default=3.0, help="seconds between the deaths of workers")
    options = parser.parse_args()
    if options.allow and options.store != "redis":
        parser.error("--allow needs --store redis: the others come back by themselves")
    cluster = options.store == "cluster"
    chaos = Chaos(
        options.requests, concurrency=options.concurrency, store=options.store, seed=options.seed, lying=options.lying,
        kill_every=options.kill_every, strikes=max(options.requests // (5000 if cluster else 1500), 1),
        quiet=12 if cluster else 6, purse=options.allow,
    )  # fmt: skip
    judge = Judge(asyncio.run(chaos.run())).judge()
    print(report(chaos, judge))
    print(f"{options.requests} requests, store {options.store}, seed {options.seed}")
    return 1 if judge.violations or missing(chaos, judge) else 0


if __name__ == "__main__":
    sys.exit(main())
