"""Chaos against a ledger: forced rare paths, an audit while it runs, the sums at rest; ends with a table.

    python -m tests.chaos.driver --requests 20000 --server valkey|redis|cluster|memory [--lying] [--kill]

Workers in one process play every way to die, stall, repeat and be late. The exit code is 1 when an invariant broke, or
when a path that the run is there to test never happened.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from extproc.ledger.base import LedgerUnavailable, RollupRow, Settlement
from extproc.ledger.memory_treasury import MemoryTreasury
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import LARGEST, Account, Ask, Budget, Grant, Need, Option, RateLimit, TrueUp, Unit
from extproc.pb import usage_pb2 as pb
from tests.contract.ledger_servers import Cluster, Server

Store = MemoryTreasury | RedisTreasury
T = TypeVar("T")
DAY = datetime.now(UTC).date().isoformat()
HOUR = 3_600_000
LEASE = 1500
WINDOW = 1500
"""Length of the teams' windows (ms): they roll all the time."""
SEED_SPENT = 4_000_003_000_000_001
"""Spent before the start: above $4,000,000, where numbers written with 14 digits are wrong."""
TEAMS = ("ta", "tb")
FULL = {"ta": 3_000_000_000, "tb": 400_000_000}
"""Limits of the teams' windows at most (n$): one has enough, so that dear requests flow; the other is always short."""
PATHS = (
    "reserve OK", "reserve BUDGET", "reserve STALE", "reserve WINDOW", "reserve GONE", "begin topped up",
    "begin BUDGET", "begin GONE", "end DONE", "end OPEN", "end DUP", "end LATE", "end ORPHAN", "finish DONE", "finish OPEN",
    "record unsent", "record expired", "record closed", "lost reply", "twice at once", "late duplicate", "died",
    "hedge", "several attempts",
)  # fmt: skip
"""What a run of some thousand requests must have met."""


class Broken(Exception):  # noqa: N818
    """The store cannot carry out a call at all."""


class Table(msgspec.Struct, frozen=True):
    """Limits in force under one epoch."""

    epoch: int
    limits: dict[str, int]


class Fate(msgspec.Struct):
    """What one request is to go through, drawn beforehand."""

    team: str
    user: str
    options: tuple[Option, ...]
    attempts: int
    hedge: bool
    dies: str
    stalls: bool
    orphan: bool


class Chaos:
    """One run over one org."""

    def __init__(
        self, store: Store, requests: int, *, flight: int = 200, seed: int = 1, lying: bool = False, hasty: bool = False
    ) -> None:
        self.store, self.requests, self.flight, self.lying = store, requests, flight, lying
        self.org = "chaos-" + uuid.uuid4().hex[:8]
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.violations: list[str] = []
        self.hasty = hasty
        """Stop at the first violation."""
        self._tables: dict[int, Table] = {}
        self._table = self._stale = Table(0, {})
        self._bill: dict[str, int] = {}
        """What the provider bills, by request."""
        self._told: set[str] = set()
        """Requests whose every running attempt was ended, sooner or later: their sums are exact."""
        self._sums: dict[str, tuple[int, int]] = {}
        self._audited = 0
        self._serial = 0
        self._later: set[asyncio.Task[Any]] = set()
        self._watchers: list[asyncio.Future[None]] = []
        self._over = False

    # ------------------------------------------------------------------------------------ the run

    async def run(self) -> bool:
        """Play all requests; returns whether every invariant held."""
        try:
            await self._run()
        except Broken as exc:
            self._violation(str(exc))
        finally:
            for task in (*self._watchers, *self._later):
                task.cancel()
            await asyncio.gather(*self._watchers, *self._later, return_exceptions=True)
        return not self.violations

    async def _run(self) -> None:
        await self._publish(FULL, expected=0)
        org = self._budget("org", Unit.USD, LARGEST, 0, LARGEST - HOUR)
        seed = self._rid()
        await self._answer(lambda: self.store.adjust(self.org, seed, b"", self._row("seed"), (org,), SEED_SPENT))
        self._audited = self._table.epoch
        self._watchers = [asyncio.ensure_future(job()) for job in (self._auditor, self._publisher, self._sweeper)]
        queue = iter(range(self.requests))
        await asyncio.gather(*(self._worker(queue) for _ in range(self.flight)))
        while self._later:
            await asyncio.wait(self._later)
        self._over = True
        await asyncio.gather(*self._watchers)
        if not (self.hasty and self.violations):
            await self._rest()

    async def _worker(self, queue: Any) -> None:
        for _ in queue:
            if self.hasty and self.violations:
                return
            await self._request(self._draw())

    def _violation(self, text: str) -> None:
        self.violations.append(text)

    def _chance(self, percent: float) -> bool:
        return self.random.random() * 100 < percent

    def _draw(self) -> Fate:
        roll = self.random
        each, fixed = roll.randint(500, 2500), roll.randint(100_000, 2_000_000)
        options = (Option(100, roll.randint(200, 1500), fixed, each, 1000, 1),)
        if self._chance(10):
            options = (*options, Option(100, 1000, 0, 0, 1000, 1))
        dies = ""
        if self._chance(7):
            dies = roll.choice(("after reserve", "after begin", "before end", "between attempts", "before finish"))
        return Fate(
            roll.choice(TEAMS), f"u{roll.randint(0, 9)}", options,
            roll.choice((2, 2, 3)) if self._chance(25) else 1,
            self._chance(2), dies, self._chance(3), self._chance(1),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------ calls that go wrong

    async def _send(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call as a worker's client library would on a bad day: every call may be repeated blindly."""
        if self._chance(10 if name == "reserve" else 3):
            self.seen["late duplicate"] += 1
            task = asyncio.ensure_future(self._duplicate(name, call))
            self._later.add(task)
            task.add_done_callback(self._later.discard)
        if self._chance(3):
            self.seen["twice at once"] += 1
            first, _ = await asyncio.gather(self._answer(call), self._answer(call))
            return self._count(name, first)
        if self._chance(4):
            self.seen["lost reply"] += 1
            await self._answer(call)
        return self._count(name, await self._answer(call))

    async def _answer(self, call: Callable[[], Awaitable[T]]) -> T:
        for _ in range(200):
            await asyncio.sleep(self.random.uniform(0, 0.004))  # the way there
            try:
                return await call()
            except LedgerUnavailable as exc:
                if str(exc).startswith(("ERR", "WRONGTYPE")):
                    raise Broken(str(exc)) from exc
                self.seen["unavailable"] += 1
                await asyncio.sleep(0.1)
        raise Broken("the store did not come back")

    async def _duplicate(self, name: str, call: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.sleep(self.random.uniform(0.02, 0.6))
        self._count(name, await self._answer(call))

    def _count(self, name: str, reply: T) -> T:
        code = reply[0] if isinstance(reply, tuple) else getattr(reply, "code", reply)
        self.seen[f"{name} {code}"] += 1
        return reply

    # ------------------------------------------------------------------------------------ one request

    async def _request(self, fate: Fate) -> None:
        rid = self._rid()
        if fate.orphan:
            await self._orphan(rid, fate)
            return
        lease = 0 if fate.dies == "after reserve" else LEASE
        grant, budgets = await self._admit(rid, fate, lease)
        if grant.code != "OK":
            return
        option = fate.options[grant.option - 1]
        bound = Need(option.nano_usd(grant.max_tokens), option.tokens(grant.max_tokens))
        if fate.dies == "after reserve":
            self.seen["died"] += 1
            return
        if self._chance(2):  # the client leaves
            self._bill.setdefault(rid.hex(), 0)
            await self._send("finish", lambda: self.store.finish(self.org, rid))
            return
        await (self._hedge if fate.hedge else self._attempts)(rid, fate, bound, budgets)

    async def _admit(self, rid: bytes, fate: Fate, lease: int) -> tuple[Grant, tuple[Budget, ...]]:
        skew, table = 0, self._stale if self._chance(50) else self._table
        blob = pb.Admission(request_id=rid.hex(), org=self.org, team=fate.team, user=fate.user).SerializeToString()
        if self._chance(5):
            skew = self.random.choice((-WINDOW, WINDOW))
        for _ in range(20):
            budgets = self._budgets(table, fate, _now() + skew)
            ask = Ask(table.epoch, budgets, (RateLimit("rpm", 60_000, 10_000_000, 1_000_000, 1),), fate.options)

            def call(ask: Ask = ask) -> Awaitable[Grant]:
                return self.store.reserve(self.org, rid, blob, lease, ask=ask)

            grant = await self._send("reserve", call)
            if grant.code == "STALE":
                table = self._table
            elif grant.code == "WINDOW":
                skew = grant.time_ms - _now()
            else:
                return grant, budgets
        return grant, budgets

    def _budgets(self, table: Table, fate: Fate, now: int) -> tuple[Budget, ...]:
        start = now - now % WINDOW
        return (
            self._budget("org", Unit.USD, LARGEST, 0, LARGEST - HOUR),
            self._budget(fate.team, Unit.USD, table.limits[fate.team], start, start + WINDOW),
            self._budget(fate.user, Unit.USD, FULL["tb"], start, start + WINDOW),
            self._budget(fate.team + "t", Unit.TOKENS, 10**12, 0, LARGEST - HOUR),
            self._budget("req", Unit.REQUESTS, 10**9, 0, LARGEST - HOUR),
            self._budget("con", Unit.CONCURRENT, 100_000, 0, LARGEST - HOUR),
        )

    @staticmethod
    def _budget(name: str, unit: Unit, limit: int, start: int, end: int) -> Budget:
        return Budget(name, unit, limit, start, end, HOUR)

    async def _attempts(self, rid: bytes, fate: Fate, bound: Need, budgets: tuple[Budget, ...]) -> None:
        refused = False
        for number in range(1, fate.attempts + 1):
            final = number == fate.attempts
            last_words = fate.dies in ("after begin", "before end") and final
            lease = 0 if last_words or (fate.stalls and final) else LEASE
            if not await self._begin(rid, number, bound, lease, fate):
                refused = True
                break
            # An earlier attempt was billed in full, in part or not at all.
            cost = self._cost(bound, whole=not final and self._chance(50), nothing=not final and self._chance(30))
            self._billed(rid, cost)
            if last_words:
                self.seen["died"] += 1
                if fate.dies == "before end" and self._chance(60):  # its spool line turns up
                    await asyncio.sleep(self.random.uniform(0, 0.3))
                    await self._end(rid, number, cost, budgets, final=True, fate=fate)
                    self._told.add(rid.hex())
                return
            if fate.stalls and final:
                await asyncio.sleep(self.random.uniform(0, 0.15))
            await self._end(rid, number, cost, budgets, final=final and fate.dies != "before finish", fate=fate)
            if fate.dies == "between attempts" and not final:
                self.seen["died"] += 1
                self._told.add(rid.hex())
                await self.store.renew(self.org, [rid], LEASE)
                return
        # A late duplicate of a refused begin may be granted, and then nobody ends it.
        if not refused:
            self._told.add(rid.hex())
        self._bill.setdefault(rid.hex(), 0)
        if fate.dies == "before finish":
            self.seen["died"] += 1
            return
        if fate.attempts > 1:
            self.seen["several attempts"] += 1
        await self._send("finish", lambda: self.store.finish(self.org, rid))

    async def _hedge(self, rid: bytes, fate: Fate, bound: Need, budgets: tuple[Budget, ...]) -> None:
        self.seen["hedge"] += 1
        running = [
            number
            for number, begun in zip(
                (1, 2), await asyncio.gather(*(self._begin(rid, n, bound, LEASE, fate) for n in (1, 2))), strict=True
            )
            if begun
        ]
        if self._chance(50):
            await self._send("finish", lambda: self.store.finish(self.org, rid))
        costs = {number: self._cost(bound) for number in running}
        for cost in costs.values():
            self._billed(rid, cost)
        await asyncio.gather(*(self._end(rid, n, cost, budgets, final=True, fate=fate) for n, cost in costs.items()))
        if len(running) == 2:
            self._told.add(rid.hex())
        self._bill.setdefault(rid.hex(), 0)
        await self._send("finish", lambda: self.store.finish(self.org, rid))

    async def _orphan(self, rid: bytes, fate: Fate) -> None:
        """A request that was let through without the store; free of charge, so that honest runs stay without debt."""
        self._bill[rid.hex()] = 0
        self._told.add(rid.hex())
        await self._end(rid, 1, 0, self._budgets(self._table, fate, _now()), final=True, fate=fate)

    async def _begin(self, rid: bytes, number: int, bound: Need, lease: int, fate: Fate) -> bool:
        blob = pb.Attempt(number=number, outcome=pb.Attempt.EXPIRED).SerializeToString()
        row = self._row(fate.team)

        def call(bound: Need = bound) -> Awaitable[Any]:
            return self.store.begin(self.org, rid, number, blob, lease, bound=bound, row=row)

        begun = await self._send("begin", call)
        if begun.code == "OK" and number > 1:
            self.seen["begin topped up"] += 1
        return begun.code == "OK"

    async def _end(
        self, rid: bytes, number: int, cost: int, budgets: tuple[Budget, ...], *, final: bool, fate: Fate
    ) -> None:
        blob = pb.Attempt(number=number, outcome=pb.Attempt.EXACT, cost_nano_usd=cost).SerializeToString()
        settlement = Settlement(blob, cost, 300, 20, self._row(fate.team))
        true_ups = (TrueUp("rpm", 60_000, 10_000_000, 1_000_000, 1, 2),)
        account = Account(budgets, true_ups if self._chance(50) else ())
        if self._chance(20):
            await self._send("end", lambda: self.store.end(self.org, rid, number, settlement, final=final))
        else:
            await self._send(
                "end", lambda: self.store.end(self.org, rid, number, settlement, final=final, account=account)
            )

    def _cost(self, bound: Need, *, whole: bool = False, nothing: bool = False) -> int:
        if self.lying and self._chance(5):
            return bound.nano_usd * self.random.randint(2, 50)
        return 0 if nothing else bound.nano_usd if whole else self.random.randint(0, bound.nano_usd)

    def _billed(self, rid: bytes, cost: int) -> None:
        self._bill[rid.hex()] = self._bill.get(rid.hex(), 0) + cost

    def _rid(self) -> bytes:
        self._serial += 1
        return _now().to_bytes(6, "big") + b"\x70\x00\x80" + self._serial.to_bytes(6, "big") + b"\x2a"

    @staticmethod
    def _row(team: str) -> RollupRow:
        return RollupRow(DAY, team, "p", "u", "k", "m", "b")

    # ------------------------------------------------------------------------------------ watchers

    async def _publish(self, limits: dict[str, int], expected: int) -> None:
        if expected:
            self._tables[expected + 1] = Table(expected + 1, limits)
        published = await self._answer(lambda: self.store.publish(self.org, b"t", expected, limits))
        # A publish whose reply was lost was repeated and is stale against itself.
        self._tables[published.epoch] = Table(published.epoch, limits)
        self._stale, self._table = self._table if expected else self._tables[published.epoch], self._tables[published.epoch]

    async def _publisher(self) -> None:
        while not self._over:
            await asyncio.sleep(0.12)
            limits = {name: int(FULL[name] * self.random.choice((0.3, 0.5, 0.7, 1))) for name in TEAMS}
            await self._publish(limits, self._table.epoch)
            await self._audit()

    async def _sweeper(self) -> None:
        while not self._over:
            await asyncio.sleep(0.05)
            await self._answer(lambda: self.store.sweep(self.org))

    async def _auditor(self) -> None:
        while not self._over:
            await asyncio.sleep(0.02)
            await self._audit()

    async def _audit(self) -> None:
        """No window is over the limit of the table in force, or over its sum when that was lowered."""
        audit = await self._answer(lambda: self.store.audit(self.org))
        self.seen["audits"] += 1
        for window in audit.windows:
            total = window.spent + window.reserved
            if window.spent < 0 or window.reserved < 0:
                self._violation(f"{window.window}: negative {window.spent} {window.reserved}")
            if window.debt and not self.lying:
                self._violation(f"{window.window}: debt {window.debt} with honest providers")
            before, since = self._sums.get(window.window, (0, self._audited))
            if window.budget in TEAMS:
                # The table is what holds, not the limit stored beside the sum: a stale writer could change that too.
                limits = [self._tables[epoch].limits[window.budget] for epoch in range(since, audit.epoch + 1)]
                if total > max(before, *limits, 0):
                    self._violation(f"{window.window}: {total} of {max(limits)} under epoch {audit.epoch}")
            elif total > window.limit:
                self._violation(f"{window.window}: {total} of {window.limit}")
            self._sums[window.window] = (total, audit.epoch)
        self._audited = audit.epoch

    # ------------------------------------------------------------------------------------ at rest

    async def _rest(self) -> None:
        deadline = time.monotonic() + 15
        while True:
            await self._answer(lambda: self.store.sweep(self.org))
            audit = await self._answer(lambda: self.store.audit(self.org))
            if audit.open == 0:
                break
            if time.monotonic() > deadline:
                self._violation(f"{audit.open} reservations are still open")
                break
            await asyncio.sleep(0.1)
        records = await self._answer(lambda: self.store.records(self.org, 10_000_000))
        for window in audit.windows:
            if window.reserved != 0:
                self._violation(f"{window.window}: {window.reserved} still reserved")
        total = sum(record.delta_nano_usd for record in records)
        charged = sum(window.spent + window.debt for window in audit.windows if window.budget == "org")
        rows = await self._answer(lambda: self.store.rollups(self.org, DAY))
        summed = sum(int(row["cost"]) for row in rows)
        if not total == charged == summed:
            self._violation(f"sums differ: records {total}, budget {charged}, rollups {summed}")
        self._check_teams(audit.windows, records)
        self._check_requests(records)

    def _check_teams(self, windows: Any, records: list[pb.UsageRecord]) -> None:
        """Every window has what the records say that it was charged."""
        charged: Counter[str] = Counter()
        for record in records:
            for name in record.budgets:
                if not name.startswith(("con:", "req:", "tat:", "tbt:")):
                    charged[name] += record.delta_nano_usd
        for window in windows:
            if window.window in charged and window.spent + window.debt != charged[window.window]:
                self._violation(f"{window.window}: {window.spent + window.debt}, by records {charged[window.window]}")
            if window.budget == "con" and window.spent != 0:
                self._violation("concurrent requests were spent")

    def _check_requests(self, records: list[pb.UsageRecord]) -> None:
        """One primary record per request; its deltas are its bill."""
        deltas: Counter[str] = Counter()
        primary: dict[str, list[str]] = {}
        for record in records:
            self.seen[f"record {record.state}"] += 1
            rid = record.admission.request_id
            deltas[rid] += record.delta_nano_usd
            if record.state not in ("late", "adjust"):
                primary.setdefault(rid, []).append(record.state)
            if record.unfunded_nano_usd and not self.lying:
                self._violation(f"{rid}: unfunded {record.unfunded_nano_usd} with honest providers")
        for rid, states in primary.items():
            if len(states) != 1:
                self._violation(f"{rid}: primary records {states}")
        for rid, bill in self._bill.items():
            states = primary.get(rid, [])
            if not states:
                self._violation(f"{rid}: no record")
            elif "expired" in states and rid not in self._told:
                # What lies above the bound dies with the worker.
                if deltas[rid] < bill and not self.lying:
                    self._violation(f"{rid}: expired with {deltas[rid]} of a bill of {bill}")
            elif deltas[rid] != bill:
                self._violation(f"{rid}: {states} with {deltas[rid]}, billed {bill}")

    def missing(self) -> list[str]:
        """Return the paths that never happened."""
        return [path for path in PATHS if self.seen[path] == 0]

    def report(self) -> str:
        """Return the table of what happened."""
        lines = [f"{name:<24}{count:>10}" for name, count in sorted(self.seen.items())]
        lines += [f"{'VIOLATIONS':<24}{len(self.violations):>10}", *self.violations[:20]]
        if missing := self.missing():
            lines.append("never happened: " + ", ".join(missing))
        return "\n".join(lines)


def _now() -> int:
    return time.time_ns() // 1_000_000


async def _killer(cluster: Cluster, chaos: Chaos) -> None:
    """Kill the primary of the org's slot once a third is done."""
    from extproc.ledger.cluster import slot_of

    while chaos.seen["reserve OK"] < chaos.requests // 4:
        await asyncio.sleep(0.05)
    node = await cluster.owner(slot_of(f"{{{chaos.org}}}:e"))
    node.kill()
    chaos.seen["primary killed"] += 1


async def _play(place: Server | Cluster | None, options: argparse.Namespace) -> int:
    store: Store
    if place is None:
        store = MemoryTreasury()
    else:
        wait = "auto" if isinstance(place, Cluster) else 0
        store = RedisTreasury(place.url, connect_timeout=2, call_timeout=2, wait=wait, patience=5)
    chaos = Chaos(store, options.requests, flight=options.flight, seed=options.seed, lying=options.lying)
    killer = asyncio.ensure_future(_killer(place, chaos)) if options.kill and isinstance(place, Cluster) else None
    started = time.monotonic()
    held = await chaos.run()
    if killer is not None:
        await killer
    print(chaos.report())
    print(f"{options.requests} requests in {time.monotonic() - started:.1f} s, seed {options.seed}")
    await store.close()
    return 0 if held and not chaos.missing() else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--server", choices=("memory", "valkey", "redis", "cluster"), default="valkey")
    parser.add_argument("--flight", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--lying", action="store_true", help="providers bill above the bound")
    parser.add_argument("--kill", action="store_true", help="kill the primary of a cluster under load")
    options = parser.parse_args()
    place = None if options.server == "memory" else Cluster() if options.server == "cluster" else Server(options.server)
    try:
        return asyncio.run(_play(place, options))
    finally:
        if place is not None:
            place.remove()


if __name__ == "__main__":
    sys.exit(main())
