"""Dollars a day for the stronger chain: which share of the requests the rest of the day can afford. Pure.

All workers share counts by the hour (UTC): requests that would gain, how many were sent, answers and what they cost.
What is left is divided by the requests still to come, as far as the same weekday a week ago, or yesterday, tells them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from math import exp, log2, sqrt

HOUR = 3_600_000
DAY_HOURS, WEEK_HOURS = 24, 168
KEEP_MS = (WEEK_HOURS + DAY_HOURS + 1) * HOUR
"""How long the shared counts must live."""
ENOUGH = 50
"""Requests of an earlier day that make it a forecast; answers that make a mean price."""
SEEN_HOURS = 1
"""Without an earlier day, the next hours are expected to be like this one and so many before it."""
BUSY_HOURS = 10.0
"""And then to fall away, by half in seven hours: people go home, and what is not spent today is lost."""
GROWTH = 2
"""A day is expected to have at most so many times the requests of the earlier one, or of today until now: a rush that
no earlier day had at this hour would else be taken for a rate that goes on, and little of the amount be used."""
IN_FLIGHT_MS = 60_000
"""How long an expected price counts besides what was reported as spent."""
MOST_IN_FLIGHT = 100_000
_TIMES = 8.0
"""How far today may be from the earlier day."""
_FIELDS = ("asked", "sent", "answers", "spent")


class Pace:
    """One worker's picture of an org's day."""

    def __init__(self, day_nano: int) -> None:
        """`day_nano`: n$ that may be spent at the complex side from 00:00 to 24:00 UTC."""
        self.day_nano = day_nano
        self._hours: dict[int, Counter[str]] = {}
        self._first = -1
        self._today: Counter[str] = Counter()
        self._earlier: Counter[str] = Counter()
        self._shape: list[int] = []
        self._pending: deque[tuple[int, int]] = deque()
        self._promised = 0
        self._begun: int | None = None
        self._forecast_of = -1

    # ------------------------------------------------------------------------------------ the shared counts

    @staticmethod
    def bucket(now: int) -> int:
        """The hour (since the epoch, UTC) to which counts of this moment are added."""
        return now // HOUR

    def wanted(self, now: int) -> list[int]:
        """The hours to read for `load`: today's; at first, and when a day begins, the earlier days' too."""
        first = _first(now)
        today = list(range(first, now // HOUR + 1))
        return today if self._forecast_of == first else [*_day(first - WEEK_HOURS), *_day(first - DAY_HOURS), *today]

    def load(self, hours: Mapping[int, Mapping[str, int]], now: int) -> None:
        """Take the shared counts of the hours that were read; what this worker noted itself is in them by now."""
        first = _first(now)
        for hour, counts in hours.items():
            self._hours[hour] = Counter({name: counts[name] for name in _FIELDS if counts.get(name, 0) > 0})
        kept = {*_day(first - WEEK_HOURS), *_day(first - DAY_HOURS), *_day(first)}
        self._hours = {hour: counts for hour, counts in self._hours.items() if hour in kept}
        if hours.keys() >= set(_day(first - DAY_HOURS)):
            self._forecast_of = first
        self._sum_up(first)

    def alone(self, now: int) -> None:
        """There are no others, and no store: what was noted here is all there is."""
        if self._forecast_of != (first := _first(now)):
            self.load({hour: self._hours.get(hour, {}) for hour in self.wanted(now)}, now)
            self._forecast_of = first

    def note(self, now: int, *, sent: bool, price: int | None) -> dict[str, int]:
        """Take a request that would gain from the complex side; returns the counts to add to the shared bucket."""
        self._begun = now if self._begun is None else self._begun
        counts = {"asked": 1, "sent": 1} if sent else {"asked": 1}
        self._add(now, counts)
        if sent and price and len(self._pending) < MOST_IN_FLIGHT:
            self._pending.append((now, price))
            self._promised += price
        return counts

    def paid(self, now: int, cost: int | None) -> dict[str, int]:
        """Take what an answer of the complex side cost; returns the counts to add to the shared bucket."""
        counts = {} if cost is None else {"answers": 1, "spent": max(cost, 0)}
        self._add(now, counts)
        return counts

    def _add(self, now: int, counts: Mapping[str, int]) -> None:
        if self._first != _first(now):
            self._sum_up(_first(now))
        self._hours.setdefault(now // HOUR, Counter()).update(counts)
        self._today.update(counts)

    def _sum_up(self, first: int) -> None:
        """Add up the day that begins with this hour, and choose the one that tells what it will be like."""
        self._first = first
        self._today = self._sum(first)
        week, yesterday = first - WEEK_HOURS, first - DAY_HOURS
        earlier = week if self._sum(week)["asked"] >= ENOUGH else yesterday
        self._earlier = self._sum(earlier)
        self._shape = [self._hours[hour]["asked"] if hour in self._hours else 0 for hour in _day(earlier)]

    def _sum(self, first: int) -> Counter[str]:
        total: Counter[str] = Counter()
        for hour in _day(first):
            total.update(self._hours.get(hour, {}))
        return total

    # ------------------------------------------------------------------------------------ what they say

    @property
    def known(self) -> bool:
        """Whether the shared counts were ever read."""
        return self._forecast_of >= 0

    def spent(self, now: int) -> int:
        """The n$ spent today, with what was sent a moment ago and may not have been reported yet."""
        while self._pending and self._pending[0][0] <= now - IN_FLIGHT_MS:
            self._promised -= self._pending.popleft()[1]
        return self._of_today(now)["spent"] + self._promised

    def affords(self, now: int, price: int) -> bool:
        """Whether the day's amount has room for one more request of this expected price. Before the shared counts were
        read once, a hundredth of it may be spent, or one request a minute: others may have spent the rest."""
        spent = self.spent(now)
        room = self.day_nano if self.known or not self._promised else self.day_nano // 100
        return spent + price <= room

    def share(self, now: int, price: int) -> float:
        """The share of the requests to come that can be sent; `price` is that of this one, until more is known."""
        left, each = self.day_nano - self.spent(now), self.price(now) or price
        if left <= 0:
            return 0.0
        return min(left / max(self.to_come(now) * each, 1.0), 1.0)

    def price(self, now: int) -> int | None:
        """Mean n$ of an answer of the complex side today, else on the earlier day; None before any."""
        for counts in (self._of_today(now), self._earlier):
            if counts["answers"] >= ENOUGH // 5:
                return counts["spent"] // counts["answers"]
        return None

    def to_come(self, now: int) -> float:
        """Requests that would gain, expected from now to the end of the day (UTC)."""
        asked = self._of_today(now)["asked"]
        hour, past = now // HOUR, now % HOUR / HOUR
        here, whole = hour - self._first, sum(self._shape)
        like_lately = self._rate(now, hour, past) * BUSY_HOURS * (1 - exp((here + past - DAY_HOURS) / BUSY_HOURS))
        if whole < ENOUGH:
            return like_lately
        like_lately = min(like_lately, GROWTH * max(whole, asked) - asked)
        so_far = sum(self._shape[:here]) + self._shape[here] * past
        trust = max(whole / 20, 10.0)
        times = min(max((asked + trust) / (so_far + trust), 1 / _TIMES), _TIMES)
        # The less today is like the earlier day, the less that day tells of the rest.
        strange = max(abs(log2(times)) / log2(_TIMES), self._unlike(here))
        return (1 - strange) * times * (whole - so_far) + strange * like_lately

    def _unlike(self, here: int) -> float:
        """How differently the full hours of today were spread than the earlier day's, beyond chance: 0 to 1."""
        today = [self._hours[h]["asked"] if h in self._hours else 0 for h in range(self._first, self._first + here)]
        mine, theirs = sum(today), sum(self._shape[:here])
        if min(mine, theirs) < ENOUGH:
            return 0.0
        apart = sum(abs(a / mine - b / theirs) for a, b in zip(today, self._shape, strict=False)) / 2
        return min(max(2 * (apart - sqrt(here / min(mine, theirs)) / 2), 0.0), 1.0)

    def _rate(self, now: int, hour: int, past: float) -> float:
        """Requests an hour of late."""
        seen = [(h, self._hours[h]["asked"]) for h in range(max(self._first, hour - SEEN_HOURS), hour + 1)
                if h in self._hours and self._hours[h]["asked"]]
        if not seen:
            return 0.0
        elapsed = hour - seen[0][0] + past
        if seen[0][0] == hour and self._begun is not None and self._begun // HOUR == hour:
            elapsed = (now - self._begun) / HOUR
        return sum(asked for _, asked in seen) / max(elapsed, 1 / 60)

    def _of_today(self, now: int) -> Counter[str]:
        if self._first != (first := _first(now)):
            self._sum_up(first)
        return self._today


def _first(now: int) -> int:
    """The hour in which the day of this moment begins."""
    return now // HOUR // DAY_HOURS * DAY_HOURS


def _day(first: int) -> range:
    return range(first, first + DAY_HOURS)
