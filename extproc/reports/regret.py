"""What routing by value has left on the table: each choice against the best one by what is believed now. Pure.

Expected regret of a choice = value x chance - cost of the best backend of its cell, less the same of the one chosen.
Beliefs come from outcomes and priors, so it says where they disagree with what was done, not what answers were worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from extproc.core.pricing import Price, cost
from extproc.core.routing.learning import CELLS, Learned, Posterior
from extproc.core.usage import Tokens
from extproc.pb import usage_pb2 as pb
from extproc.reports.periods import Period
from extproc.reports.spending import PRIMARY, admitted_ms, tokens_of
from extproc.reports.tables import Column, Row, Table

MOST_BACKENDS = 100
"""Backends told apart in one cell (a client may name any model); the rest is summed as `other`."""
UNTOLD = 0.8
"""The prior of a backend of which no request tells one."""
_PPM = 1_000_000
_ANSWERED = (pb.Attempt.EXACT, pb.Attempt.ESTIMATED)
_CLASSES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
_COLUMNS = (
    Column("cell"), Column("backend"), Column("requests", "count"), Column("share", "permille", "of the cell"),
    Column("chance", "permille"), Column("low", "permille", "at least"), Column("high", "permille", "at most"),
    Column("outcomes", "count"), Column("mean_cost", "usd"), Column("value", "usd", "value - cost"), Column("best"),
    Column("regret", "usd"),
)


class Chosen(msgspec.Struct):
    """The requests of a cell that one backend answered. `cost`: n$ of those whose cost is known (`priced`)."""

    requests: int = 0
    priced: int = 0
    cost: int = 0


class Values(NamedTuple):
    """What a success is worth: `nano` n$; with `times` so many times what a mean request of its cell costs at `at`, a
    BACKEND/MODEL, when nothing is cached, where that is known and not nothing."""

    nano: int
    times: int | None = None
    at: str = ""


class Cell(msgspec.Struct):
    """The requests of one cell: who answered, their tokens (of `counted`), and what the text model had promised."""

    chosen: dict[str, Chosen] = {}
    counted: int = 0
    tokens: dict[str, int] = {}
    judged: int = 0
    local_ppm: int = 0
    cloud_ppm: int = 0


class Standing(NamedTuple):
    """A backend in a cell. `cost`: expected n$ of a mean request; `worth`: value x chance - cost; None: unknown."""

    backend: str
    belief: Posterior
    outcomes: int
    cost: int | None
    worth: int | None


class Regret:
    """Takes records one by one. All amounts are nano-dollars."""

    def __init__(self, period: Period, learned: Learned, values: Values, price: Callable[[str], Price | None],
                 locations: Mapping[str, str], more: Callable[[str, str], float] = lambda _entry, _task: 0.0) -> None:
        """`price`: of a BACKEND/MODEL. `locations`: local or cloud, of each BACKEND/MODEL that a request could have
        gone to, used or not. `more`: how much likelier the operator believes a success is than the shipped prior, of a
        BACKEND/MODEL and a task."""
        self._period, self._learned, self._values = period, learned, values
        self._price, self._locations, self._more = price, locations, more
        self.cells: dict[str, Cell] = {}
        self.left_out = 0
        """Requests that were not judged by value (pinned, by a rule), or that nobody answered."""

    def add(self, at_ms: int, record: pb.UsageRecord) -> None:
        """Add a record that the store took at that moment, if its request was admitted in the period."""
        if record.state not in PRIMARY:
            return
        if not self._period.start_ms <= admitted_ms(record, at_ms) < self._period.end_ms:
            return
        facts = record.admission.facts
        answered = [attempt for attempt in record.attempts if attempt.outcome in _ANSWERED]
        if not answered or not facts.HasField("score_ppm") or facts.cell not in CELLS:
            self.left_out += 1
            return
        last = answered[-1]
        cell = self.cells.setdefault(facts.cell, Cell())
        self._choice(cell, f"{last.backend}/{last.model_used}", record, last)
        if facts.HasField("p_local_ppm") and facts.HasField("p_cloud_ppm"):
            cell.judged += 1
            cell.local_ppm += min(facts.p_local_ppm, _PPM)
            cell.cloud_ppm += min(facts.p_cloud_ppm, _PPM)

    @staticmethod
    def _choice(cell: Cell, backend: str, record: pb.UsageRecord, last: pb.Attempt) -> None:
        if backend not in cell.chosen and len(cell.chosen) >= MOST_BACKENDS:
            backend = "other"
        chosen = cell.chosen.setdefault(backend, Chosen())
        chosen.requests += 1
        if last.HasField("cost_nano_usd"):
            chosen.priced += 1
            chosen.cost += record.delta_nano_usd
        tokens = tokens_of(last)
        if tokens.complete:
            cell.counted += 1
            for name in _CLASSES:
                cell.tokens[name] = cell.tokens.get(name, 0) + (getattr(tokens, name) or 0)

    def standings(self, name: str) -> list[Standing]:
        """Return the backends of a cell, best first: those that answered and those that could have."""
        cell = self.cells[name]
        every = dict.fromkeys([*cell.chosen, *self._locations])
        found = [self._standing(name, cell, backend) for backend in every]
        return sorted(found, key=lambda one: (one.worth is None, -(one.worth or 0), one.backend))

    def _standing(self, name: str, cell: Cell, backend: str) -> Standing:
        seen = self._learned.evidence(name, backend)
        belief = self._learned.chance(name, backend, self._prior(cell, backend, name.partition(".")[0]))
        price = self._cost(cell, backend)
        worth = None if price is None else round(belief.mean * self._value(cell)) - price
        return Standing(backend, belief, round(seen.all), price, worth)

    def _value(self, cell: Cell) -> int:
        """What a success of this cell is worth, as routing by value takes it of each request."""
        values, cold = self._values, 0
        if values.times is not None and cell.counted:
            mean = self._mean(cell)
            cold = cost(Tokens(input=mean.total_input, output=mean.total_output), self._price(values.at)) or 0
        return values.nano if values.times is None or not cold else values.times * cold

    def _prior(self, cell: Cell, backend: str, task: str) -> float:
        location = self._locations.get(backend)
        if not cell.judged or location is None:
            return UNTOLD
        mean = (cell.local_ppm if location == "local" else cell.cloud_ppm) / cell.judged / _PPM
        return min(max(mean + self._more(backend, task), 0.0), 1.0)

    def _cost(self, cell: Cell, backend: str) -> int | None:
        """What a mean request of the cell costs there: by its price, since easy and hard ones go to different places;
        else what those cost that it answered."""
        if cell.counted and (by_price := cost(self._mean(cell), self._price(backend))) is not None:
            return by_price
        chosen = cell.chosen.get(backend, Chosen())
        return chosen.cost // chosen.priced if chosen.priced else None

    @staticmethod
    def _mean(cell: Cell) -> Tokens:
        return Tokens(**{name: round(cell.tokens.get(name, 0) / cell.counted) for name in _CLASSES})

    def table(self) -> Table:
        """Return a row per cell and backend, dearest regret first within all cells, and the sum."""
        blocks = sorted((self._block(name) for name in self.cells), key=lambda block: (-block[0], block[1][0][0]))
        rows = [row for _, block in blocks for row in block]
        requests = sum(one.requests for cell in self.cells.values() for one in cell.chosen.values())
        blank: list[None] = [None] * 7
        total: Row = ("total", "", requests, *blank, "", sum(regret for regret, _ in blocks))
        title = "Expected regret, by cell (task, length, tools) and backend"
        return Table(_COLUMNS, rows, total if rows else None, title)

    def _block(self, name: str) -> tuple[int, list[Row]]:
        """The rows of a cell, and its regret."""
        cell, ordered = self.cells[name], self.standings(name)
        every = sum(one.requests for one in cell.chosen.values())
        best = ordered[0]
        rows: list[Row] = []
        lost = 0
        for place, one in enumerate(ordered):
            chosen = cell.chosen.get(one.backend, Chosen())
            regret = self._regret(best, one, chosen.requests)
            lost += regret or 0
            if not chosen.requests and place:
                continue  # neither used nor best
            low, high = one.belief.interval()
            rows.append((
                name, one.backend, chosen.requests, chosen.requests * 1000 // every, *map(_permille, (
                    one.belief.mean, low, high)), one.outcomes, one.cost, one.worth,
                "yes" if not place and one.worth is not None else "", regret))
        return lost, rows

    @staticmethod
    def _regret(best: Standing, one: Standing, requests: int) -> int | None:
        if best.worth is None or one.worth is None:
            return None
        return (best.worth - one.worth) * requests


def _permille(share: float) -> int:
    return round(share * 1000)

