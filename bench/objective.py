"""Measure how well the aims of `routing.smart` are kept: shares, dollars a day, and from which value on requests go.

    python -m bench.objective

Requests: sizes of Azure's trace (tests/data/azure-trace), kinds of task and chances by lot around the shipped priors.
"""

from __future__ import annotations

import csv
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from extproc.core.pricing import FREE, NANO, Price, Rate, per_million
from extproc.core.routing.aims import Aim, ByDollars, ByShare, ByValue
from extproc.core.routing.habits import Habits
from extproc.core.routing.objective import Side, Weighed, expected_price, weigh
from extproc.core.routing.pace import HOUR
from extproc.textmodel import CLOUD_PRIOR, LOCAL_PRIOR, TASKS

SIZES = Path(__file__).parent.parent / "tests" / "data" / "azure-trace" / "sizes.csv"
LARGE = Price(Rate(per_million(3)), Rate(per_million(15)), Rate(per_million("0.3")), Rate(per_million("3.75")))
SMALL = Price(Rate(per_million("0.25")), Rate(per_million(2)), Rate(per_million("0.025")))
MONDAY = 20_780 * 24 * HOUR
"""2026-11-23, 00:00 UTC."""
REPORT_MS, LOAD_MS = 10_000, 10_000
"""How long an answer takes, and how often a worker reads the shared counts."""
SHAPES: dict[str, tuple[int, ...]] = {
    "office": (1, 1, 1, 1, 1, 2, 4, 10, 30, 60, 70, 65, 45, 60, 75, 75, 65, 45, 20, 12, 8, 5, 3, 2),
    "steady": (10,) * 24,
    "evening": (1,) * 18 + (60,) * 5 + (10,),
    "morning": (2,) * 7 + (90,) * 4 + (5,) * 13,
    "one hour": (0,) * 14 + (100,) + (0,) * 9,
}


class Asked(NamedTuple):
    """One request as the simulation knows it."""

    at: int
    weighed: Weighed
    cost: int


def sizes() -> list[tuple[int, int]]:
    """Tokens of context and generated, as the trace has them."""
    with SIZES.open() as file:
        return [(int(row["context_tokens"]), int(row["generated_tokens"])) for row in csv.DictReader(file)]


def request(chance: random.Random, trace: list[tuple[int, int]], value: int = NANO // 10, at: int = 0) -> Asked:
    """A request by lot."""
    task, (context, _) = chance.choice(TASKS), chance.choice(trace)
    local = getattr(LOCAL_PRIOR, task) + chance.uniform(-0.08, 0.08)
    cloud = getattr(CLOUD_PRIOR, task) + chance.uniform(-0.04, 0.04)
    output = Habits().output(task)
    price = expected_price(LARGE, context, output)
    weighed = weigh(Side("qwen/q", "local", local, 0), Side("claude/c", "cloud", cloud, price), value, 0)
    true = expected_price(LARGE, context, int(output * chance.lognormvariate(-0.18, 0.6)))
    return Asked(at, weighed, true or 0)


def share_missed(target: float, order: Callable[[list[Asked]], Iterable[Asked]], seed: int = 1) -> float:
    """The greatest difference from a target share, in points, after 500 requests and more (of 3,000)."""
    chance, trace = random.Random(seed), sizes()
    aim, sent, worst = ByShare(target), 0, 0.0
    for number, asked in enumerate(order([request(chance, trace) for _ in range(3000)]), 1):
        sent += aim.decide(asked.weighed, 0).complex
        if number >= 500:
            worst = max(worst, abs(sent / number - target) * 100)
    return worst


ORDERS: dict[str, Callable[[list[Asked]], Iterable[Asked]]] = {
    "by chance": lambda all_: all_,
    "gaps only rise": lambda all_: sorted(all_, key=lambda asked: asked.weighed.gap),
    "gaps only fall": lambda all_: sorted(all_, key=lambda asked: -asked.weighed.gap),
    "all equal": lambda all_: [all_[0]] * len(all_),
    "two in turn": lambda all_: [all_[number % 2] for number in range(len(all_))],
}


class Day(NamedTuple):
    """How a day ended. `used`: of the amount; `most`: the dearest answer as a share of it; `saved`: expected successes
    more than without the complex side."""

    used: float
    most: float
    sent: int
    asked: int
    gained: float
    hourly: list[int]


class Shared:
    """The counts that workers share, exact."""

    def __init__(self) -> None:
        self.hours: dict[int, Counter[str]] = {}

    def add(self, hour: int, counts: dict[str, int]) -> None:
        """Add to an hour."""
        self.hours.setdefault(hour, Counter()).update(counts)


def traffic(shape: str, requests: int, day: int, seed: int, value: int) -> list[Asked]:
    """A day's requests in order."""
    chance, trace = random.Random(seed), sizes()
    times = sorted(
        day + hour * HOUR + chance.randrange(HOUR)
        for hour in chance.choices(range(24), SHAPES[shape], k=requests))
    return [request(chance, trace, value, at) for at in times]


def run_day(requests: list[Asked], shared: Shared, workers: int, amount: int, aims: list[ByDollars]) -> Day:
    """Let workers decide a day's requests; answers are reported and counts read with delay."""
    loaded = [0] * workers
    reports: list[tuple[int, int, int]] = []
    spent = most = sent = asked = gained = 0
    hourly = [0] * 24
    for number, one in enumerate(requests):
        while reports and reports[0][0] <= one.at:
            at, by, cost = reports.pop(0)
            shared.add(aims[by].pace.bucket(at), aims[by].pace.paid(at, cost))
        by = number % workers
        if one.at - loaded[by] >= LOAD_MS:
            wanted = aims[by].pace.wanted(one.at)
            aims[by].pace.load({hour: shared.hours.get(hour, {}) for hour in wanted}, one.at)
            loaded[by] = one.at
        choice = aims[by].decide(one.weighed, one.at)
        shared.add(aims[by].pace.bucket(one.at), choice.counts)
        asked += 1
        if choice.complex:
            sent, spent, most = sent + 1, spent + one.cost, max(most, one.cost)
            gained += one.weighed.gain
            hourly[one.at // HOUR % 24] += 1
            reports.append((one.at + REPORT_MS, by, one.cost))
    for at, by, cost in reports:
        shared.add(aims[by].pace.bucket(at), aims[by].pace.paid(at, cost))
    return Day(spent / amount, most / amount, sent, asked, gained / 1e6, hourly)


def days(shapes: list[str], requests: int = 6000, workers: int = 1, usd: int = 10,
         value: int = NANO // 10) -> list[Day]:
    """Run days one after the other with the same workers."""
    shared, found = Shared(), list[Day]()
    aims = [ByDollars(usd * NANO) for _ in range(workers)]
    for number, shape in enumerate(shapes):
        asked = traffic(shape, requests, MONDAY + number * 24 * HOUR, number + 1, value)
        found.append(run_day(asked, shared, workers, usd * NANO, aims))
    return found


def break_even(task: str, context: int, output: int, price: Price, warm: int = 0) -> Fraction:
    """Dollars that a success must be worth for a request to go to a backend with this price."""
    gain = Fraction(str(getattr(CLOUD_PRIOR, task))) - Fraction(str(getattr(LOCAL_PRIOR, task)))
    return Fraction(expected_price(price, context, output, warm) or 0, NANO) / gain


def shares_table() -> None:
    """Print how far shares are missed."""
    targets = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
    print("Greatest distance from the share, in points, from the 500th request on\n")
    print(f"| order | {' | '.join(f'{target:.0%}' for target in targets)} |\n|---|{'---:|' * len(targets)}")
    for name, order in ORDERS.items():
        print(f"| {name} | {' | '.join(f'{share_missed(target, order):.2f}' for target in targets)} |")


def dollars_table() -> None:
    """Print how much of 10 $ a day is used."""
    print("\nUsed of 10 $ a day; 6,000 requests that would cost 80 $\n")
    print("| days | workers | used of each day | sent |\n|---|---:|---|---|")
    plans = [["office"] * 3, ["steady"] * 3, ["evening"] * 3, ["morning"] * 3, ["one hour"] * 3, ["office", "one hour"],
             ["office", "evening", "office", "morning", "one hour", "steady"]]
    for plan in plans:
        for workers in (1, 4):
            found = days(plan, workers=workers)
            name = plan[0] if len(set(plan)) == 1 else ", ".join(plan)
            print(f"| {name} | {workers} | {', '.join(f'{day.used:.1%}' for day in found)} | "
                  f"{', '.join(str(day.sent) for day in found)} |")
    for before, now in ((1000, 6000), (6000, 1000), (6000, 20_000)):
        shared, aims = Shared(), [ByDollars(10 * NANO)]
        found = [run_day(traffic("office", requests, MONDAY + number * 24 * HOUR, number + 1, NANO // 10), shared, 1,
                         10 * NANO, aims) for number, requests in enumerate((before, now))]
        print(f"| office, {before:,} then {now:,} requests | 1 | {', '.join(f'{day.used:.1%}' for day in found)} | "
              f"{', '.join(str(day.sent) for day in found)} |")
    print("\nThe second office day by the hour, requests sent:", days(["office"] * 2)[1].hourly)
    print("\nRequests a day that are all affordable (500):", f"{days(['office'] * 2, requests=500)[1].used:.0%}")
    print("\n| value of a success | successes gained on the second office day for 10 $ |\n|---|---:|")
    for value in ("0.01", "0.03", "0.05", "0.1", "0.2", "0.5", "1", "10"):
        print(f"| {value} $ | {days(['office'] * 2, value=int(Fraction(value) * NANO))[1].gained:.1f} |")


def value_table() -> None:
    """Print from which value on requests go to a stronger backend."""
    print("\nDollars that a success must be worth (3 $/15 $ and 0.25 $/2 $ a million tokens)\n")
    print("| task | 2k, large | 20k, large | 20k of which 18k cached | 2k, small |\n|---|---:|---:|---:|---:|")
    for task in TASKS:
        output = Habits().output(task)
        cells = [break_even(task, 2000, output, LARGE), break_even(task, 20_000, output, LARGE),
                 break_even(task, 20_000, output, LARGE, 18_000), break_even(task, 2000, output, SMALL)]
        print(f"| {task} | {' | '.join(f'{float(cell):.3f}' for cell in cells)} |")


def decide_time() -> None:
    """Print what a decision costs."""
    import time

    chance, trace = random.Random(3), sizes()
    all_ = [request(chance, trace, at=MONDAY + 10 * HOUR + number) for number in range(5000)]
    aims: dict[str, Aim] = {"value": ByValue(), "share": ByShare(0.2), "dollars": ByDollars(10 * NANO)}
    for name, aim in aims.items():
        took: list[float] = []
        for asked in all_:
            start = time.perf_counter()
            aim.decide(asked.weighed, asked.at)
            took.append((time.perf_counter() - start) * 1e6)
        cuts = statistics.quantiles(took, n=100)
        print(f"decision by {name:8} p50 {cuts[49]:5.1f} µs   p99 {cuts[98]:5.1f} µs")


if __name__ == "__main__":
    assert FREE.input.base == 0
    shares_table()
    dollars_table()
    value_table()
    print()
    decide_time()
