"""The gateway under chaos: its configuration, its processes and its store, each kind killed and started in its way."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from extproc.config import parse
from extproc.core.admission import table_of
from extproc.core.bound import bound_of, need
from extproc.ledger.access import WORKER
from extproc.ledger.cluster import slot_of
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.ledger.spool import SUFFIX
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS
from tests.chaos.data_plane_provider import MOST_TOKENS, PRICES
from tests.contract.ledger_servers import SURE, Cluster, Node, Server, binary
from tests.contract.secure_servers import Secure
from tests.free_ports import free_port

TEAMS = {"rich": 30, "poor": 18, "minute": 12, "tokens": 12, "few": 8, "crowd": 10, "plain": 10}
"""Teams and how much of the traffic is theirs, per cent."""
CHAINS = {
    "pair": ("oa0/large", "oa1/small"), "cross": ("an0/claude", "oa0/large"), "mixed": ("oa1/small", "lo0/free"),
    "three": ("oa0/large", "an0/claude", "oa1/small"), "solo": ("an0/claude",),
}  # fmt: skip
ORG = "default"
LEASES = f"{{{ORG}}}:x"
WORKERS = 2
MEAN_USD = 0.0015
"""What a request costs on average: budgets that are to run out hold a part of what their teams ask for."""


_PEER_LEFT = "ExecuteBatchError"
"""What gRPC raises when Envoy is gone before an answer to it is written: told, and without harm."""


def secret(team: str) -> str:
    """The gateway key of a team."""
    return f"gw-{team}"


def configuration(requests: int, ports: dict[str, int], provider: int, store: str, *, replicas: bool = False,
                  purse: float = 0.0) -> str:
    """A gateway.yaml whose budgets suit so many requests. `replicas`: the store fails over; `purse`: dollars of each
    worker that go on without it."""

    def backend(name: str, schema: str, model: str) -> str:
        base = f"http://127.0.0.1:{provider}/{name}" + ("" if schema == "anthropic" else "/v1")
        put, out = PRICES[name]
        dialect = "" if schema == "anthropic" else ", dialect: " + ("compatible" if name == "lo0" else "openai")
        prices = "" if name == "lo0" else f", usd_per_million_input: {put}, usd_per_million_output: {out}"
        where = "location: local" if name == "lo0" else f"location: cloud, api_key: sk-{name}"
        return (f'  {name}: {{schema: {schema}{dialect}, base_url: "{base}", {where}, '
                f"models: {{{model}: {{context: 200000, default_max_tokens: {MOST_TOKENS}{prices}}}}}}}")

    def part(team: str, share: float) -> float:
        return requests * TEAMS[team] / 100 * share

    keys = ", ".join(
        f'{{name: {t}, team: {t}, user: u-{t}, sha256: "{hashlib.sha256(secret(t).encode()).hexdigest()}"}}'
        for t in TEAMS)
    lines = [
        f"listen: 127.0.0.1:{ports['listen']}", f"admin: 127.0.0.1:{ports['admin']}",
        f"envoy_admin: 127.0.0.1:{ports['envoy_admin']}", f"workers: {WORKERS}", f"redis: {store}",
        f"auth: {{mode: keys, keys: [{keys}]}}", "backends:",
        backend("oa0", "openai", "large"), backend("oa1", "openai", "small"), backend("an0", "anthropic", "claude"),
        backend("lo0", "openai", "free"), "chains:",
        *[f"  {name}: [{', '.join(entries)}]" for name, entries in CHAINS.items()],
        "models: {" + ", ".join(f'"{name}-*": {name}' for name in CHAINS) + "}",
        "failover: {first_event_timeout: 1s, answer_timeout: 2s, silence_timeout: 1s}", "budgets:",
        f"  - {{for: {{org: {ORG}}}, usd: 5000000, per: total}}",
        f"  - {{for: {{team: rich}}, usd: {requests * 0.05:.2f}, per: month}}",
        f"  - {{for: {{team: poor}}, usd: {part('poor', 0.5) * MEAN_USD:.3f}, per: total}}",
        f"  - {{for: {{team: minute}}, usd: {max(part('minute', 0.3) * MEAN_USD, 0.05):.3f}, per: minute}}",
        f"  - {{for: {{team: tokens}}, tokens: {int(max(part('tokens', 0.5) * 300, 8000))}, per: day}}",
        f"  - {{for: {{team: few}}, requests: {int(part('few', 0.4))}, per: total}}",
        '  - {for: {user: "*"}, usd: 1000, per: week, time_zone: Europe/Berlin}', "limits:",
        "  - {for: {team: crowd}, concurrent: 8}",
        *(["money: {wait: auto}"] if replicas else []),
        *([f"money: {{allow: {{usd: {purse}, requests: 1000, for: 10m}}}}"] if purse else []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


class Rules:
    """What the configuration says, for those who watch."""

    def __init__(self, text: str) -> None:
        config = parse(text, "chaos", Path())
        self._runtime = Runtime(config, lambda _provider, _model: (None, None))
        self._table = {entry.id: entry.limit for entry in table_of(config.budgets, config.limits, 1).entries}
        self.team_limits = {
            whom: round(budget.usd * 10**9) for budget in config.budgets
            for dimension, whom in (budget.for_.pair(),)
            if dimension == "team" and budget.usd is not None and budget.per != "minute"
        }  # fmt: skip

    def limit_of(self, budget: str) -> int | None:
        """The limit of a budget by its id; one for each has the id of all and a name of its own behind it."""
        return self._table.get(budget, self._table.get(budget.rpartition(".")[0]))

    def need(self, schema: str, body: bytes, backend: str, granted: int) -> int:
        """The most that an attempt may cost, n$."""
        return need(_bound(schema, body), self._runtime.backends[self._target(backend)], granted,
                    self._runtime.price_of).nano_usd

    @functools.cache  # noqa: B019 - one per run
    def _target(self, backend: str) -> str:
        return next(known for known in self._runtime.backends if known.partition("/")[0] == backend)


@functools.lru_cache(maxsize=4096)
def _bound(schema: str, body: bytes):
    return bound_of(CLIENTS[schema].parse_request(body), body)


class Place:
    """A store that can be broken. `embedded`: the gateway's own; its supervisor starts it again.

    `url`: for the gateway; `inner`: for those who watch, with all rights.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._own: Server | Cluster | None = None
        self._secure: Secure | None = None
        if kind == "redis":
            self._own = Server("redis" if binary("redis") else "valkey", *SURE)
        elif kind == "cluster":
            self._own = Cluster()
        elif kind == "tls":
            self._folder = tempfile.TemporaryDirectory(prefix="tls-")
            self._secure = Secure("redis" if binary("redis") else "valkey", Path(self._folder.name), WORKER)
            self._own = self._secure.server
        self.inner = "embedded" if self._own is None else self._own.url
        self.url = self.inner if self._secure is None else self._secure.url()
        self._dead: Node | None = None

    async def strike(self, gateway: Gateway) -> str:
        """Kill the server that has the org's keys; say what was done."""
        if isinstance(self._own, Cluster):
            if self._dead is not None:
                self._dead.start()
                await self._own.until(self._own.healthy)
            self._dead = await self._own.owner(slot_of(LEASES))
            self._dead.kill()
            return "primary killed"
        if self._own is not None:
            self._own.kill()
            await asyncio.sleep(0.2)
            await asyncio.to_thread(self._own.start)
        else:
            for pid in gateway.pids("--unixsocket"):
                os.kill(pid, signal.SIGKILL)
        return "store killed"

    async def leave(self, gateway: Gateway, seconds: float) -> bool:
        """Kill the server, and amid its absence a worker; whether there was one to kill. Then start the server again."""
        assert isinstance(self._own, Server)
        self._own.kill()
        await asyncio.sleep(seconds / 2)
        killed = gateway.kill_worker()
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(self._own.start)
        return killed

    def remove(self) -> None:
        """End what was started."""
        if self._secure is not None:
            self._secure.remove()
            self._folder.cleanup()
        elif self._own is not None:
            self._own.remove()


class Gateway:
    """A running `extproc up` with two workers."""

    def __init__(self, process: subprocess.Popen[bytes], root: Path, port: int) -> None:
        self._process, self._root, self.port = process, root, port
        self._killed = 0

    def pids(self, part: str) -> list[int]:
        """Children of this gateway that have a text in their command line, the one that lives longest first."""
        found: list[tuple[int, int]] = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == self._process.pid and part.encode() in (entry / "cmdline").read_bytes():
                    found.append((int(fields[19]), int(entry.name)))
        return [pid for _, pid in sorted(found)]

    def kill_worker(self) -> bool:
        """SIGKILL the worker that lives longest; never the last one that serves."""
        pids = self.pids("extproc.server.worker")
        served = sum(log.read_text(errors="replace").splitlines().count("ready") for log in self._logs())
        if len(pids) < 2 or served < self._killed + 2:
            return False
        os.kill(pids[0], signal.SIGKILL)
        self._killed += 1
        return True

    def _logs(self) -> list[Path]:
        return list((self._root / "state" / "gateway-0" / "logs").glob("worker-*.log"))

    @property
    def waiting(self) -> int:
        """Bytes of settlements that the store does not have yet."""
        return sum(path.stat().st_size for path in (self._root / "state" / "spool").glob(f"*{SUFFIX}"))

    def store_url(self, place: Place) -> str:
        """Where the ledger is."""
        if place.url != "embedded":
            return place.inner
        return (self._root / "state" / "gateway-0" / "store.url").read_text()

    def answers(self) -> Counter[str]:
        """What Envoy says of its own answers and of streams that broke: status, flags, details."""
        found: Counter[str] = Counter()
        for line in (self._root / "state" / "gateway-0" / "logs" / "envoy.log").read_text(errors="replace").splitlines():
            try:
                told = json.loads(line)
            except ValueError:  # its other log, or a line that the two share
                continue
            if told.get("event") == "access" and (told.get("flags") not in (None, "-") or told.get("status", 0) == 502):
                found[f"envoy {told['status']} {told['flags']} {told['details']}"[:90]] += 1
        return found

    def complaints(self) -> list[str]:
        """What workers wrote that no chaos excuses: settlements given up, and exceptions that nobody caught."""
        found: list[str] = []
        for log in self._logs():
            text = log.read_text(errors="replace")
            found += [f"{log.name}: {line[:300]}" for line in text.splitlines() if "was not taken by the store" in line]
            for trace in re.findall(r"^Traceback .*\n(?: .*\n)+(.*)", text, re.MULTILINE):
                if _PEER_LEFT not in trace:
                    found.append(f"{log.name}: {trace[:300]}")
        return found


@contextlib.asynccontextmanager
async def running(text: str, place: Place, port: int) -> AsyncIterator[Gateway]:
    """Start a gateway, and end exactly what was started."""
    with tempfile.TemporaryDirectory(prefix="xp-") as folder:
        root = Path(folder)
        (root / "gateway.yaml").write_text(text)
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != "REDIS_URL"}
        if place.kind in ("cluster", "tls"):
            environment["REDIS_URL"] = place.url
        log = root / "up.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "extproc.cli", "up", "-c", str(root / "gateway.yaml"), "--state",
                 str(root / "state")], stdout=out, stderr=out, env=environment)  # fmt: skip
        try:
            deadline = time.monotonic() + 40
            while "Ctrl-C" not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the gateway did not start:\n{log.read_text()}")
                await asyncio.sleep(0.05)
            yield Gateway(process, root, port)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                await asyncio.to_thread(process.wait, 15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ports() -> dict[str, int]:
    """Free ports for a gateway."""
    return {name: free_port() for name in ("listen", "admin", "envoy_admin")}


def ledger_at(url: str) -> RedisTreasury:
    """A patient ledger for those who watch."""
    return RedisTreasury(url, connect_timeout=2, call_timeout=5, patience=10)
