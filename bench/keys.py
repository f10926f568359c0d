"""Measure the key store: making, finding, listing and replacing keys among many.

    python bench/keys.py [--url redis://…] [--keys 100000]

Without --url it starts the embedded Valkey in a temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from extproc.core.identity import Caller
from extproc.ledger import embedded
from extproc.ledger.cluster import open_door
from extproc.ledger.key_cache import KeyCache
from extproc.ledger.keys import Changes, KeyStore, digest_of

BATCH = 500
ROUNDS = 300


async def each(name: str, call: Callable[[int], Awaitable[object]]) -> None:
    """Print the median and the slow end of single calls, one after the other."""
    took: list[float] = []
    for number in range(ROUNDS):
        start = time.perf_counter()
        await call(number)
        took.append((time.perf_counter() - start) * 1e6)
    cuts = statistics.quantiles(took, n=100)
    print(f"{name:36} p50 {cuts[49]:9,.0f} µs   p99 {cuts[98]:9,.0f} µs")


async def measure(url: str, many: int) -> None:
    door = open_door(url, connect_timeout=2, call_timeout=30)
    keys = KeyStore(door)
    digests = [digest_of(f"gw-{number}") for number in range(many)]
    before = int((await door.call(("INFO", "memory"))).split(b"used_memory:")[1].split(b"\r")[0])
    start = time.perf_counter()
    for first in range(0, many, BATCH):
        await asyncio.gather(*(
            keys.create(digests[number].hex(), Caller(team=f"team {number % 50}", key=f"key {number}"))
            for number in range(first, min(first + BATCH, many))))
    took = time.perf_counter() - start
    after = int((await door.call(("INFO", "memory"))).split(b"used_memory:")[1].split(b"\r")[0])
    print(f"{many:,} keys made in {took:.1f} s: {many / took:,.0f} a second, {(after - before) / many:,.0f} bytes each")

    step = max(many // ROUNDS, 1)
    at = [number * step % many for number in range(ROUNDS)]
    cache = KeyCache(keys)
    await each("get", lambda n: keys.get(digests[at[n]]))
    await each("get, unknown", lambda n: keys.get(digest_of(f"nobody {n}")))
    await each("cache, first time", lambda n: cache.find(digests[at[n]]))
    await each("cache, remembered", lambda n: cache.find(digests[at[n]]))
    await each("by name", lambda n: keys.named(f"key {at[n]}"))
    await each("by the first 12 digits", lambda n: keys.starting(digests[at[n]].hex()[:12]))
    await each("create", lambda n: keys.create(digest_of(f"new {n}").hex(), Caller(key=f"new {n}")))
    await each("rotate", lambda n: keys.rotate(f"key {at[n]}", digest_of(f"next {n}").hex(), 86_400_000))
    await each("change", lambda n: keys.change(digests[at[n]].hex(), Changes(team="other")))
    await each("revoke", lambda n: keys.revoke(digests[at[n]].hex()))

    start, listed = time.perf_counter(), 0
    async for page in keys.pages():
        listed += len(page)
    print(f"{listed:,} keys listed in {time.perf_counter() - start:.2f} s, by pages of 500")
    await door.close()


def run(arguments: argparse.Namespace) -> None:
    if arguments.url:
        uvloop.run(measure(arguments.url, arguments.keys))
        return
    with tempfile.TemporaryDirectory(prefix="keys-") as folder:
        socket = Path(folder) / "s"
        with subprocess.Popen(embedded.command(socket, Path(folder)), stdout=subprocess.DEVNULL) as server:
            try:
                asyncio.run(embedded.wait_ready(embedded.url(socket)))
                uvloop.run(measure(embedded.url(socket), arguments.keys))
            finally:
                server.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--keys", type=int, default=100_000)
    run(parser.parse_args())
