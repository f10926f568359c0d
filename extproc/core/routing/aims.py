"""The operator's aim at work: whether a weighed request goes to the complex side, and what would have had to differ."""

from __future__ import annotations

from typing import Protocol

import msgspec

from extproc.config import SmartConfig
from extproc.core.routing.objective import MILLION, NEVER, Threshold, Weighed, money, threshold
from extproc.core.routing.pace import Pace
from extproc.core.routing.quota import Quota

SCORE = 4
"""A score of 1 is an expected gain of one success in four."""


class Choice(msgspec.Struct, frozen=True):
    """Which side an aim chose, why in words, and what would have had to differ."""

    complex: bool
    why: str
    weighed: Weighed
    level: int
    """The gap that had to be exceeded."""
    share: float | None = None
    """The share of requests that goes to the complex side now, where one is held."""
    counts: dict[str, int] = {}
    """To be added to the shared counts of the day (`Pace`)."""
    differ: str = ""
    """What would have had to differ, where it was neither the gap nor the level."""

    @property
    def threshold(self) -> Threshold:
        """What would have had to differ; worked out only when it is asked for."""
        if self.differ:
            return Threshold(self.weighed.gap, self.weighed.gap, NEVER, None, self.differ)
        return threshold(self.weighed, self.level, chosen=self.complex)


class Aim(Protocol):
    """Decides requests of one org in one worker. `now` in ms since the epoch."""

    def decide(self, weighed: Weighed, now: int) -> Choice:
        """Choose a side and remember the request."""
        ...

    def note(self, weighed: Weighed | None, now: int, *, sent: bool) -> dict[str, int]:
        """Remember a request that was decided elsewhere (a session that stays): it counts for a share and for the
        day's dollars. Returns counts like `Choice.counts`."""
        ...

    def bars(self, weighed: Weighed, now: int) -> str:
        """Why not even a session that stays may go to the complex side now; empty where it may."""
        ...


class ByValue:
    """Complex where the gap is above 0."""

    def __init__(self, times: int | None = None) -> None:
        """`times`: how many times its price a success is worth, where that is how it is said."""
        self._times = times

    def decide(self, weighed: Weighed, now: int) -> Choice:
        """Choose by the gap alone. Where a success is worth so many times the price and there is none, one in so many
        must be gained all the same."""
        level = 0 if weighed.cost or self._times is None else weighed.value // self._times
        chosen = weighed.gap > level
        return Choice(chosen, weighed.words(), weighed, level)

    def note(self, weighed: Weighed | None, now: int, *, sent: bool) -> dict[str, int]:
        """Nothing is remembered."""
        return {}

    def bars(self, weighed: Weighed, now: int) -> str:
        """Nothing is barred."""
        return ""


class ByScore:
    """Complex from a score on, whatever it costs: the older way."""

    def __init__(self, score: float) -> None:
        """`score`: 0 to 1."""
        self._score = score

    def decide(self, weighed: Weighed, now: int) -> Choice:
        """Choose by the gain alone."""
        score = round(min(max(weighed.gain * SCORE / MILLION, 0.0), 1.0), 2)
        chosen = score >= self._score
        # The gap that this gain amounts to is worth less the same costs.
        level = int(self._score / SCORE * weighed.value) - (weighed.worth - weighed.gap)
        sign = ">=" if chosen else "<"
        return Choice(chosen, f"score {score} {sign} {self._score}", weighed, level)

    def note(self, weighed: Weighed | None, now: int, *, sent: bool) -> dict[str, int]:
        """Nothing is remembered."""
        return {}

    def bars(self, weighed: Weighed, now: int) -> str:
        """Nothing is barred."""
        return ""


class ByShare:
    """A share of the requests goes to the complex side: those with the greatest gaps."""

    def __init__(self, share: float) -> None:
        """`share`: 0 to 1."""
        self._share = share
        self._quota = Quota()

    def decide(self, weighed: Weighed, now: int) -> Choice:
        """Choose by the quantile of the gap."""
        chosen, level = self._quota.decide(weighed.gap, self._share)
        why = f"{_among(chosen)} the {self._share:.0%} that gain most ({_against(weighed, level)}): {weighed.words()}"
        return Choice(chosen, why, weighed, level, self._share)

    def note(self, weighed: Weighed | None, now: int, *, sent: bool) -> dict[str, int]:
        """It counts for the share."""
        self._quota.note(None if weighed is None else weighed.gap, self._share, chosen=sent)
        return {}

    def bars(self, weighed: Weighed, now: int) -> str:
        """Nothing is barred."""
        return ""


class ByDollars:
    """Dollars a day for the complex side: the share that the rest of the day can afford, and nothing beyond."""

    def __init__(self, day_nano: int) -> None:
        """`day_nano`: n$ a day (UTC)."""
        self.pace = Pace(day_nano)
        self._quota = Quota()

    def decide(self, weighed: Weighed, now: int) -> Choice:
        """Choose by the quantile of the gap at the share of this moment. What gains nothing is never sent."""
        amount = money(self.pace.day_nano)
        if weighed.cost is None:
            why = f"{', '.join(weighed.unknown)} not known: {amount} a day could not be held"
            return Choice(False, why, weighed, weighed.gap, differ="complex if the price were known")
        if weighed.benefit <= 0:
            return Choice(False, f"nothing to gain: {weighed.words()}", weighed, -weighed.price)
        if why := self.bars(weighed, now):
            self._quota.note(weighed.gap, 0.0, chosen=False)
            least = money(self.pace.spent(now) + weighed.cost)
            differ = f"complex if the day's amount were at least {least}" if self.pace.known else "complex once it is"
            return Choice(False, why, weighed, weighed.gap, 0.0, self.pace.note(now, sent=False, price=None), differ)
        share = self.pace.share(now, weighed.cost)
        chosen, level = self._quota.decide(weighed.gap, share)
        why = (f"{_among(chosen)} the {share:.0%} that gain most, which the rest of today's {amount} can pay "
               f"({_against(weighed, level)}): {weighed.words()}")
        return Choice(chosen, why, weighed, level, share, self.pace.note(now, sent=chosen, price=weighed.cost))

    def note(self, weighed: Weighed | None, now: int, *, sent: bool) -> dict[str, int]:
        """It counts for the day."""
        price = None if weighed is None else weighed.cost
        self._quota.note(None if weighed is None else weighed.gap, self.pace.share(now, price or 1), chosen=sent)
        return self.pace.note(now, sent=sent, price=price)

    def bars(self, weighed: Weighed, now: int) -> str:
        """What would exceed the day's amount is barred."""
        price = weighed.cost or 0
        if self.pace.affords(now, price):
            return ""
        if not self.pace.known and self.pace.spent(now) + price <= self.pace.day_nano:
            return f"what others spent of today's {money(self.pace.day_nano)} is not known yet"
        return (f"{money(self.pace.spent(now))} of {money(self.pace.day_nano)} for today are spent, and it would cost "
                f"{money(price)}")


def aim_of(smart: SmartConfig) -> Aim:
    """The aim of a configuration, with nothing remembered."""
    if smart.kind == "threshold":
        return ByScore(smart.threshold)
    if smart.share is not None:
        return ByShare(smart.share)
    if smart.day_nano is not None:
        return ByDollars(smart.day_nano)
    return ByValue(smart.times)


def _among(chosen: bool) -> str:
    return "among" if chosen else "not among"


def _against(weighed: Weighed, level: int) -> str:
    return f"gap {money(weighed.gap, sign=True)}, level {money(level, sign=True)}"
