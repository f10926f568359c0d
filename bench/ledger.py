"""Measure the ledger: latency of one request's calls, throughput, and what a call costs the worker's CPU.

    python bench/ledger.py [--url redis://…] [--requests 3000]

Without --url it starts the embedded Valkey in a temporary folder. The last rows send the same EVALSHA calls
through redis.asyncio, to show what the connection of our own saves.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path

import redis.asyncio
import uvloop

from extproc.ledger import embedded, redis_ledger
from extproc.ledger.base import RollupRow, Settlement
from extproc.ledger.keyspace import keys_of, row_words
from extproc.ledger.redis_ledger import RedisLedger
from extproc.pb import usage_pb2 as pb

CALLS = 4
ROW = RollupRow("2026-11-23", "core", "search", "ann", "k1", "qwen3-coder", "local")
ADMISSION = pb.Admission(team="core", project="search", user="ann", route="r" * 100).SerializeToString()
ATTEMPT = pb.Attempt(
    number=1,
    backend="local",
    model_used="qwen3-coder",
    outcome=pb.Attempt.EXACT,
    status=200,
    tokens=pb.Tokens(input=900, output=100),
    duration_ms=812,
).SerializeToString()
SETTLEMENT = Settlement(ATTEMPT, 123_456, 900, 100, ROW)


class Rids:
    def __init__(self) -> None:
        self.serial = 0

    def make(self) -> bytes:
        self.serial += 1
        return (time.time_ns() // 1_000_000).to_bytes(6, "big") + self.serial.to_bytes(10, "big")


RIDS = Rids()


async def request(ledger: RedisLedger) -> None:
    rid = RIDS.make()
    await ledger.reserve("bench", rid, ADMISSION)
    await ledger.begin("bench", rid, 1, ATTEMPT)
    await ledger.end("bench", rid, 1, SETTLEMENT, final=True)
    await ledger.finish("bench", rid)


async def each_call(ledger: RedisLedger, count: int) -> None:
    """Print the round trip of each call with one caller."""
    times: dict[str, list[float]] = {"reserve": [], "begin": [], "end": [], "finish": [], "all four": []}
    for _ in range(count):
        rid, marks = RIDS.make(), [time.perf_counter()]
        await ledger.reserve("bench", rid, ADMISSION)
        marks.append(time.perf_counter())
        await ledger.begin("bench", rid, 1, ATTEMPT)
        marks.append(time.perf_counter())
        await ledger.end("bench", rid, 1, SETTLEMENT, final=True)
        marks.append(time.perf_counter())
        await ledger.finish("bench", rid)
        marks.append(time.perf_counter())
        for name, start, stop in zip(times, marks, marks[1:], strict=False):
            times[name].append(stop - start)
        times["all four"].append(marks[-1] - marks[0])
    print(f"{'one caller':<24}{'p50 us':>10}{'p99 us':>10}")
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=100)
        print(f"{name:<24}{cuts[49] * 1e6:>10.0f}{cuts[98] * 1e6:>10.0f}")


async def throughput(name: str, one: Callable[[], Awaitable[None]], count: int, flight: int) -> None:
    """Print requests per second and this process' CPU per call with `flight` requests at a time."""

    async def caller() -> None:
        for _ in range(count // flight):
            await one()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(flight)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = count // flight * flight
    print(f"{name:<24}{flight:>10}{done / wall:>12.0f}{cpu / done / CALLS * 1e6:>16.1f}")


async def redis_py_request(client: redis.asyncio.Redis) -> None:
    """Send the same four scripts through redis-py, each by itself."""
    rid, keys = RIDS.make(), keys_of("bench")
    sha = {
        name: getattr(redis_ledger, f"_{name.upper()}").sha for name in ("reserve", "begin", "end", "finish")
    }
    row_id, dimensions = row_words(ROW)
    r, x, z, log = keys.reservation(rid.hex()), keys.leases, keys.tombs(rid), keys.log
    rows = keys.rollup(ROW.day, row_id)
    account = ("", *dimensions)
    await client.evalsha(sha["reserve"], 3, r, x, z, rid, ADMISSION, 120_000)
    await client.evalsha(sha["begin"], 2, r, x, rid, 1, ATTEMPT, 120_000)
    words = (rid, 1, ATTEMPT, 1, b"", 123_456, 900, 100, 100_000, row_id, 9999, *account)
    await client.evalsha(sha["end"], 8, r, x, z, log, *rows, keys.windows, *words)
    await client.evalsha(sha["finish"], 4, r, x, z, log, rid)


async def measure(url: str, count: int) -> None:
    await embedded.wait_ready(url)
    ledger = RedisLedger(url, call_timeout=5)
    client = redis.asyncio.from_url(url, max_connections=64)
    try:
        for _ in range(200):
            await request(ledger)
        await each_call(ledger, count)
        print(f"\n{'':<24}{'in flight':>10}{'requests/s':>12}{'CPU us per call':>16}")
        for flight in (1, 16, 64):
            await throughput("ours", lambda: request(ledger), count, flight)
        await redis_py_request(client)
        for flight in (1, 64):
            await throughput("redis.asyncio", lambda: redis_py_request(client), count, flight)
    finally:
        await ledger.close()
        await client.aclose()


@contextmanager
def server(url: str | None):
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        socket = Path(folder) / "s"
        process = subprocess.Popen(
            embedded.command(socket, Path(folder)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            yield embedded.url(socket)
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    with server(options.url) as url:
        uvloop.run(measure(url, options.requests))


if __name__ == "__main__":
    main()
