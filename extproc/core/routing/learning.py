"""What this gateway's own traffic says of each backend: Beta posteriors by kind of request, on top of the text model.

Outcomes are counted in whole numbers by day (UTC), so that workers can add them up in the store. A belief starts at the
prior of the request, is moved by what its task had at that backend, then by what its own cell (task x length x tools)
had. It is moved as odds are, against what the prior had promised for the same requests: a cell that is worse than
promised takes the same step off the odds of each of its requests, and their order among each other stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from extproc.textmodel import TASKS

LENGTHS = ((1_000, "s"), (8_000, "m"), (32_000, "l"))
"""Input tokens up to which a request has each length; beyond the last it is xl."""
OTHER = "other"
"""The task of a request that has none of the text model's."""
CELLS = frozenset(f"{task}.{length}.{tools}" for task in (*TASKS, OTHER) for length in ("s", "m", "l", "xl")
                  for tools in ("t", "n"))
_OTHERS = {cell: tuple(one for one in sorted(CELLS) if one != cell and one.partition(".")[0] == cell.partition(".")[0])
           for cell in CELLS}
"""The other cells of a cell's task."""
LOWEST, HIGHEST = 0.02, 0.98
"""No belief is ever certain: else nothing could change it."""
MOST_WEIGHT = 500
"""Outcomes of one cell and backend that count, newest first: what they say is soon revised when the world changes."""
PER_KEY = 200
"""Weight of outcomes that one key can add to a cell on one day in one worker."""
HEAVIEST = 10
"""The most that one outcome weighs."""
MOST_KEYS = 20_000
"""Pairs of key and cell whose outcomes of the day are told apart; further ones are not learnt from until tomorrow."""
MOST_BACKENDS = 64
"""Backends that are learnt of; a chain lists far fewer."""
LONGEST_DAYS = 120
"""Days that can count, however long the half-life."""
_HALF_LIVES = 4
"""Older outcomes would weigh less than a sixteenth."""
_MILLI = 1000
_NONE = (0, 0, 0)
_NORMAL_90 = 1.645


def cell_of(task: str, input_tokens: int, tools: int) -> str:
    """Name the cell of a request: its task, length (s, m, l, xl) and whether it has tools, such as `debug.m.t`."""
    length = next((name for limit, name in LENGTHS if input_tokens <= limit), "xl")
    return f"{task if task in TASKS else OTHER}.{length}.{'t' if tools > 0 else 'n'}"


class Posterior(NamedTuple):
    """A belief in success. `weight`: how many outcomes it stands on, those that the prior counts for included."""

    mean: float
    weight: float

    def interval(self) -> tuple[float, float]:
        """Return where the true chance lies in nine cases of ten, by the normal law on the scale of odds."""
        middle, half = _logit(self.mean), _NORMAL_90 / math.sqrt(max(self.weight * self.mean * (1 - self.mean), 0.1))
        return _chance(middle - half), _chance(middle + half)


class Evidence(NamedTuple):
    """Outcomes of one cell at one backend: weight of successes, of all, and what the prior had promised of them."""

    good: float
    all: float
    promised: float


_NOTHING = Evidence(0.0, 0.0, 0.0)


class Learned:
    """The counts of all workers as one worker knows them. Pure and mutable; `day` is the number of the day (UTC)."""

    def __init__(self, *, enabled: bool = True, half_life: float = 14.0, prior_weight: float = 20.0,
                 per_key: int = PER_KEY) -> None:
        """See `configure`."""
        self._today = 0
        self._counts: dict[tuple[str, str], dict[int, tuple[int, int, int]]] = {}
        self._known: set[int] = set()
        self._backends: set[str] = set()
        self._evidence: dict[tuple[str, str], Evidence] = {}
        self._spent: dict[tuple[str, str], int] = {}
        self.configure(enabled=enabled, half_life=half_life, prior_weight=prior_weight, per_key=per_key)

    def configure(self, *, enabled: bool, half_life: float, prior_weight: float, per_key: int = PER_KEY) -> None:
        """Learn in another way from now on; what is known stays.

        `half_life`: days after which an outcome counts half. `prior_weight`: outcomes that the prior counts for.
        `per_key`: weight that one key may add to a cell on a day here; with several workers each has its part of it.
        """
        self.enabled = enabled
        self._half_life, self._prior_weight, self._per_key = half_life, prior_weight, per_key
        self.days = max(1, min(LONGEST_DAYS, math.ceil(half_life * _HALF_LIVES)))
        """Days that count: how long the store must keep a bucket."""
        self._evidence.clear()

    # ------------------------------------------------------------------------------------ belief

    def chance(self, cell: str, backend: str, prior: float) -> Posterior:
        """Return the belief that `backend` does a request of this cell well, for which the prior says `prior`."""
        prior = _clipped(prior)
        if not self.enabled:
            return Posterior(prior, self._prior_weight)
        base = _logit(prior)
        step = self._step(self._others(cell, backend), 0.0)
        own = self.evidence(cell, backend)
        return Posterior(_clipped(_chance(base + step + self._step(own, step))), self._prior_weight + own.all)

    def _step(self, seen: Evidence, before: float) -> float:
        """How far evidence moves the odds, beyond the step that was taken before it."""
        if not seen.all:
            return 0.0
        promised = _chance(_logit(_clipped(seen.promised / seen.all)) + before)
        rate = (self._prior_weight * promised + seen.good) / (self._prior_weight + seen.all)
        return _logit(_clipped(rate)) - _logit(promised)

    def _others(self, cell: str, backend: str) -> Evidence:
        """What the other cells of the task had at this backend: a rare cell learns from them."""
        good = every = promised = 0.0
        for name in _OTHERS.get(cell, ()):
            if (name, backend) in self._counts:
                seen = self.evidence(name, backend)
                good, every, promised = good + seen.good, every + seen.all, promised + seen.promised
        return Evidence(good, every, promised)

    def evidence(self, cell: str, backend: str) -> Evidence:
        """Return the outcomes that count now: newest first up to a limit, each day's weight halved by the half-life."""
        pair = (cell, backend)
        if pair not in self._evidence:
            self._evidence[pair] = self._summed(self._counts.get(pair, {}))
        return self._evidence[pair]

    def _summed(self, days: Mapping[int, tuple[int, int, int]]) -> Evidence:
        good = every = promised = 0.0
        for day in sorted(days, reverse=True):
            ok, bad, due = days[day]
            count = ok + bad
            age = max(0, self._today - day)
            if not count or not due or age >= self.days:
                continue  # without what was promised the outcomes tell no step
            weight = min(0.5 ** (age / self._half_life), max(0.0, MOST_WEIGHT - every) / count)
            good += weight * ok
            every += weight * count
            promised += weight * min(due / _MILLI, count)
        return Evidence(good, every, promised)

    # ------------------------------------------------------------------------------------ outcomes

    def note(self, cell: str, backend: str, success: bool, weight: int, day: int, *, prior: float,
             key: str = "") -> dict[str, int]:
        """Count one outcome of a request for which the prior had said `prior`.

        Returns:
            What to add to the shared bucket of the day: empty when the outcome does not count (learning is off, the
            cell is none, the key has had its share of the day).
        """
        if day > self._today:
            self._turn(day)
        weight = min(weight, HEAVIEST)
        if not self.enabled or weight < 1 or cell not in CELLS or not self._admits(backend):
            return {}
        weight = self._granted(key, cell, weight)
        if not weight:
            return {}
        due = round(_clipped(prior) * _MILLI) * weight
        self._add(cell, backend, day, (weight if success else 0, 0 if success else weight, due))
        return {_field(cell, "ok" if success else "bad", backend): weight, _field(cell, "due", backend): due}

    def _granted(self, key: str, cell: str, weight: int) -> int:
        """How much of the weight the key may still add today."""
        pair = (key, cell)
        if pair not in self._spent and len(self._spent) >= MOST_KEYS:
            return 0
        spent = self._spent.get(pair, 0)
        granted = min(weight, self._per_key - spent)
        if granted > 0:
            self._spent[pair] = spent + granted
        return max(granted, 0)

    def _admits(self, backend: str) -> bool:
        if backend in self._backends:
            return True
        if len(self._backends) >= MOST_BACKENDS:
            return False
        self._backends.add(backend)
        return True

    def _add(self, cell: str, backend: str, day: int, counts: tuple[int, int, int]) -> None:
        days = self._counts.setdefault((cell, backend), {})
        ok, bad, due = days.get(day, _NONE)
        days[day] = (ok + counts[0], bad + counts[1], due + counts[2])
        self._evidence.pop((cell, backend), None)

    def _turn(self, today: int) -> None:
        self._today = today
        self._evidence.clear()
        self._spent.clear()

    # ------------------------------------------------------------------------------------ the shared picture

    def wanted(self, today: int) -> list[int]:
        """Return the days to read from the store: today, yesterday (others may still write it), and what is unknown."""
        return [day for day in range(today, today - self.days, -1) if day > today - 2 or day not in self._known]

    def load(self, days: Mapping[int, Mapping[str, int]], today: int) -> None:
        """Put the store's counts in place of ours for the days given, and forget days that no longer count.

        Write what `note` returned before reading, else it is missing until the next time. Fields that are none are
        skipped: the store may hold those of another version.
        """
        if today != self._today:
            self._turn(today)
        alive = range(today - self.days + 1, today + 1)
        replaced = set(days)
        for pair in list(self._counts):
            kept = {day: counts for day, counts in self._counts[pair].items() if day in alive and day not in replaced}
            if kept:
                self._counts[pair] = kept
            else:
                del self._counts[pair]
        for day, fields in days.items():
            if day in alive:
                self._read(day, fields)
        self._known = {day for day in self._known | replaced if day in alive}
        self._evidence.clear()

    def _read(self, day: int, fields: Mapping[str, int]) -> None:
        for field, value in fields.items():
            cell, _, rest = field.partition(" ")
            kind, _, backend = rest.partition(" ")
            if cell in CELLS and kind in _PLACES and backend and value > 0 and self._admits(backend):
                counts = [0, 0, 0]
                counts[_PLACES[kind]] = value
                self._add(cell, backend, day, (counts[0], counts[1], counts[2]))

    def pairs(self) -> Iterable[tuple[str, str]]:
        """Return every cell and backend that has outcomes."""
        return sorted(self._counts)


_PLACES = {"ok": 0, "bad": 1, "due": 2}


def _field(cell: str, kind: str, backend: str) -> str:
    return f"{cell} {kind} {backend}"


def explores(rid: str, share: float) -> bool:
    """Whether this request is among the share that tries the other side: always the same answer for the same id."""
    if share <= 0.0:
        return False
    number = int.from_bytes(blake2b(rid.encode("utf-8", "surrogatepass"), digest_size=8, person=b"explore").digest())
    return number < share * 2**64


def _clipped(chance: float) -> float:
    return min(max(chance, LOWEST), HIGHEST)


def _logit(chance: float) -> float:
    return math.log(chance / (1.0 - chance))


def _chance(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))
