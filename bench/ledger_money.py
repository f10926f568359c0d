"""Measure the ledger with money: latency of a request's calls, what they cost the server, bytes it keeps.

    python -m bench.ledger_money [--url redis://…] [--requests 3000]

Without --url it starts the embedded Valkey in a temporary folder. One request is a reserve, a begin and a final end.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from collections.abc import Awaitable, Callable

import uvloop

from bench.ledger import ADMISSION, ATTEMPT, RIDS, ROW, server
from extproc.ledger import embedded
from extproc.ledger.base import Settlement
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import LARGEST, Account, Ask, Budget, Need, Option, RateLimit, TrueUp, Unit

HOUR = 3_600_000
START = time.time_ns() // 1_000_000 - HOUR
SETTLEMENT = Settlement(ATTEMPT, 123_456, 900, 100, ROW)
BOUND = Need(20_000_000, 6000)
OPTION = Option(256, 4096, 5_000_000, 3000, 1900, 1)


class Case:
    """So many budgets and limits on every request."""

    def __init__(self, budgets: int, limits: int, epoch: int, name: str = "b") -> None:
        units = (Unit.USD, Unit.USD, Unit.USD, Unit.TOKENS, Unit.USD, Unit.CONCURRENT)
        self.name = f"{budgets} budgets, {limits} limits"
        entries = tuple(
            Budget(f"{name}{i}", units[i % 6], LARGEST, START, START + 30 * HOUR, HOUR) for i in range(budgets)
        )
        rates = tuple(RateLimit(f"l{i}", 60_000, 10**9, 10**9, 1000) for i in range(limits))
        self.ask = Ask(epoch, entries, rates, (OPTION,))
        self.account = Account(entries, tuple(TrueUp.of(limit, 900) for limit in rates))


async def triple(ledger: RedisTreasury, case: Case) -> list[float]:
    """Run one request; returns the moments between its calls."""
    rid, clock = RIDS.make(), time.perf_counter
    marks = [clock()]
    grant = await ledger.reserve("bench", rid, ADMISSION, ask=case.ask)
    marks.append(clock())
    await ledger.begin("bench", rid, 1, ATTEMPT, bound=BOUND, row=ROW)
    marks.append(clock())
    ended = await ledger.end("bench", rid, 1, SETTLEMENT, final=True, account=case.account)
    marks.append(clock())
    assert (grant.code, ended.code) == ("OK", "DONE")
    return marks


async def latency(ledger: RedisTreasury, case: Case, count: int) -> None:
    """Print the round trips with one caller."""
    times: list[list[float]] = [[], [], [], []]
    for _ in range(count):
        marks = await triple(ledger, case)
        for values, start, stop in zip(times, (*marks[:3], marks[0]), (*marks[1:], marks[3]), strict=True):
            values.append(stop - start)
    cells = [f"{statistics.quantiles(values, n=100)[cut] * 1e6:>8.0f}" for values in times for cut in (49, 98)]
    print(f"{case.name:<24}{''.join(cells)}")


async def server_cpu(ledger: RedisTreasury) -> float:
    """Return the seconds of CPU that the server has used."""
    info = (await ledger.door.call(("INFO", "cpu"))).decode()
    return sum(float(found) for found in re.findall(r"used_cpu_(?:sys|user):([\d.]+)", info))


async def memory(ledger: RedisTreasury) -> int:
    """Return the bytes of data that the server keeps."""
    info = (await ledger.door.call(("INFO", "memory"))).decode()
    found = re.search(r"used_memory_dataset:(\d+)", info)
    assert found is not None
    return int(found[1])


async def throughput(ledger: RedisTreasury, case: Case, count: int, flight: int) -> None:
    """Print requests per second of wall time, and per second of the server's CPU."""

    async def caller() -> None:
        for _ in range(count // flight):
            await triple(ledger, case)

    wall, worker, store = time.perf_counter(), time.process_time(), await server_cpu(ledger)
    await asyncio.gather(*(caller() for _ in range(flight)))
    done = count // flight * flight
    wall, worker = time.perf_counter() - wall, time.process_time() - worker
    store = await server_cpu(ledger) - store
    print(
        f"{case.name:<24}{flight:>10}{done / wall:>10.0f}{done / store:>14.0f}"
        f"{store / done * 1e6:>14.0f}{worker / done * 1e6:>14.0f}"
    )


async def growth(ledger: RedisTreasury, name: str, count: int, one: Callable[[int], Awaitable[object]]) -> None:
    """Print by how many bytes the server grows per call."""
    await one(-1)
    before = await memory(ledger)
    for start in range(0, count, 100):
        await asyncio.gather(*(one(number) for number in range(start, start + 100)))
    print(f"{name:<48}{(await memory(ledger) - before) / count:>8.0f}")


async def sizes(ledger: RedisTreasury, epoch: int, count: int) -> None:
    """Print what is kept of windows, open reservations and closed requests."""
    six = Case(6, 0, epoch, "size")

    async def window(number: int) -> None:
        entry = Budget(f"u{number}", Unit.USD, 10**12, START, START + 30 * HOUR, HOUR)
        rid = RIDS.make()
        await ledger.reserve("windows", rid, b"", ask=Ask(windows_epoch, (entry,), (), (OPTION,)))
        await ledger.finish("windows", rid)

    async def held(_: int) -> None:
        await ledger.reserve("bench", RIDS.make(), ADMISSION, ask=six.ask)

    async def closed(_: int) -> None:
        await triple(ledger, six)

    async def unsent(_: int) -> None:
        rid = RIDS.make()
        await ledger.reserve("plain", rid, b"")
        await ledger.finish("plain", rid)

    windows_epoch = (await ledger.publish("windows", b"t", (await ledger.table("windows"))[0], {})).epoch
    await growth(ledger, "open reservation, 6 budgets (record + lease)", count, held)
    await growth(ledger, "closed request, 6 budgets (record + tombstone)", count, closed)
    await growth(ledger, "unsent request without money, the same", count, unsent)
    await growth(ledger, "budget window, its name, an unsent request", count, window)


async def measure(url: str, count: int) -> None:
    await embedded.wait_ready(url)
    ledger = RedisTreasury(url, call_timeout=5)
    try:
        epoch = (await ledger.publish("bench", b"t", (await ledger.table("bench"))[0], {})).epoch
        cases = [Case(budgets, limits, epoch) for budgets, limits in ((0, 0), (1, 0), (3, 0), (6, 0), (6, 2))]
        for case in cases:
            for _ in range(100):
                await triple(ledger, case)
        print(f"{'one caller, us':<24}" + "".join(f"{n:>8}{'p99':>8}" for n in ("reserve", "begin", "end", "triple")))
        for case in cases:
            await latency(ledger, case, count)
        heads = ("in flight", "triples/s", "per core of", "server us", "worker us")
        print(f"\n{'pipelined':<24}{heads[0]:>10}{heads[1]:>10}" + "".join(f"{head:>14}" for head in heads[2:]))
        for case in cases:
            await throughput(ledger, case, 2 * count, 64)
        print(f"\n{'bytes on the server':<48}")
        await sizes(ledger, epoch, 2000)
    finally:
        await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    with server(options.url) as url:
        uvloop.run(measure(url, options.requests))


if __name__ == "__main__":
    main()
