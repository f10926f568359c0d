"""The report: what the records of the usage stream add up to, read once and in order, in bounded memory. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import msgspec

from extproc.core.pricing import Price, cost
from extproc.core.usage import Tokens
from extproc.pb import usage_pb2 as pb
from extproc.reports.periods import Period, day_of

PRIMARY = ("done", "closed", "unsent", "expired", "orphan", "cached")
"""States of the one record that every request has; the others correct."""
MOST_ROWS = 10_000
"""Different models and backends that are told apart (a client may name any model); the rest is summed as `other`."""
CANDIDATES = 1_000
"""Requests kept so that late corrections can still change which ones are the dearest."""
_ANSWERED = (pb.Attempt.EXACT, pb.Attempt.ESTIMATED)
_SMART_LOCAL = ("simple", "cost sensitive")
_SMART_CLOUD = ("complex", "latency critical")
_Row = TypeVar("_Row")


class Spent(msgspec.Struct):
    """What one model at one backend had and cost. `input` is all input, `cached` the part read from a cache."""

    attempts: int = 0
    failed: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    unpriced: int = 0
    nano: int = 0


class Share(msgspec.Struct):
    """Some of the requests. `baseline`: what those of known usage would have cost at the baseline model."""

    requests: int = 0
    input: int = 0
    output: int = 0
    nano: int = 0
    baseline: int = 0

    def add(self, tokens: Tokens, nano: int, baseline: int | None) -> None:
        """Add a request by its answer."""
        self.requests += 1
        self.input += tokens.total_input or 0
        self.output += tokens.total_output or 0
        self.nano += nano
        self.baseline += baseline or 0


class Savings(msgspec.Struct):
    """Actual cost against the baseline, of requests where both are known; the others are `left_out`.

    What the others cost is in what was spent, and not here: `Report.covered` tells how much of it this speaks of.
    """

    compared: int = 0
    left_out: int = 0
    actual: int = 0
    baseline: int = 0


class Dear(msgspec.Struct):
    """One request of the list of the dearest. Nothing of what was asked or answered."""

    request_id: str
    at: int
    team: str
    key: str
    model: str
    backend: str
    input: int
    output: int
    nano: int
    state: str


class Report:
    """Takes records one by one. All amounts are nano-dollars."""

    def __init__(
        self,
        period: Period,
        price: Callable[[str], Price | None],
        locations: dict[str, str],
        context: int | None = None,
    ) -> None:
        """`price`: of the baseline model on a day. `locations`: of the backends that are known, local or cloud; others
        are local where a known usage cost nothing. `context`: the largest of a local model; None: unknown."""
        self._period, self._price, self._locations, self._context = period, price, locations, context
        self.records = self.requests = self.nano = self.tokens = self.unfunded = 0
        self.states: dict[str, int] = {}
        self.spent: dict[tuple[str, str], Spent] = {}
        self.savings = Savings()
        self.local, self.cloud = Share(), Share()
        self.could: dict[str, Share] = {}
        self.moves: dict[tuple[str, str, str], int] = {}
        self.moved = 0
        self.wasted = 0
        self._dear: dict[str, Dear] = {}
        self._expired: dict[str, pb.UsageRecord] = {}

    @property
    def covered(self) -> int | None:
        """How much of what was spent the savings speak of, in thousandths; None: nothing was spent."""
        return self.savings.actual * 1000 // self.nano if self.nano > 0 else None

    def add(self, at_ms: int, record: pb.UsageRecord) -> None:
        """Add a record that the store took at that moment, if its request was admitted in the period."""
        admitted = admitted_ms(record, at_ms)
        if not self._period.start_ms <= admitted < self._period.end_ms:
            return
        self.records += 1
        self.states[record.state] = self.states.get(record.state, 0) + 1
        self.requests += record.state in PRIMARY
        self.nano += record.delta_nano_usd
        self.tokens += record.delta_tokens
        self.unfunded += record.unfunded_nano_usd
        for attempt, nano in charges(record):
            self._spend(attempt, nano)
        if record.state == "late":
            self._correct(record, day_of(admitted))
        elif record.state in PRIMARY and record.attempts:
            self._failovers(record)
            if record.state == "expired":
                self._wait(record)
            else:
                self._answer(record, day_of(admitted))
        self._rank(record, admitted)

    def _wait(self, record: pb.UsageRecord) -> None:
        """What a dead worker's request used is unknown, unless it is told late: one record for each open attempt."""
        self.savings.left_out += 1
        self._expired[record.admission.request_id] = record
        if len(self._expired) > CANDIDATES:
            del self._expired[next(iter(self._expired))]

    def _correct(self, late: pb.UsageRecord, day: str) -> None:
        """Once all of a request is told, it is compared like any other."""
        rid = late.admission.request_id
        known = self._expired.get(rid)
        if known is None:
            return
        told = {attempt.number: attempt for attempt in (*known.attempts, *late.attempts)}
        merged = pb.UsageRecord(state="closed", admission=known.admission, attempts=[told[n] for n in sorted(told)],
                                delta_nano_usd=known.delta_nano_usd + late.delta_nano_usd)
        if any(attempt.outcome == pb.Attempt.EXPIRED for attempt in merged.attempts):
            self._expired[rid] = merged
            return
        del self._expired[rid]
        self.savings.left_out -= 1
        self._answer(merged, day)

    def _spend(self, attempt: pb.Attempt | None, nano: int) -> None:
        names = ("", "") if attempt is None else (attempt.model_used, attempt.backend)
        line = _row(self.spent, names, ("other", "other"), Spent)
        line.nano += nano
        if attempt is None:
            return
        tokens = tokens_of(attempt)
        line.attempts += 1
        line.failed += attempt.outcome == pb.Attempt.FAILED
        line.input += tokens.total_input or 0
        line.cached += tokens.cache_read or 0
        line.output += tokens.total_output or 0
        line.unpriced += attempt.outcome in _ANSWERED and not attempt.HasField("cost_nano_usd")

    def _answer(self, record: pb.UsageRecord, day: str) -> None:
        """Compare with the baseline; tell local from cloud."""
        answered = [attempt for attempt in record.attempts if attempt.outcome in _ANSWERED]
        if not answered:
            self.savings.left_out += 1
            return
        attempt = answered[-1]
        tokens, baseline = tokens_of(attempt), None
        price = self._price(day)
        if all(one.HasField("cost_nano_usd") for one in answered) and record.state in ("done", "closed", "orphan"):
            baseline = cost(tokens, price)
        if baseline is None:
            self.savings.left_out += 1
        else:
            self.savings.compared += 1
            self.savings.actual += record.delta_nano_usd
            self.savings.baseline += baseline
        local = self._is_local(attempt)
        (self.local if local else self.cloud).add(tokens, record.delta_nano_usd, baseline)
        if not local and (why := self._need_not(record.admission, tokens)) is not None:
            self.could.setdefault(why, Share()).add(tokens, record.delta_nano_usd, baseline)

    def _is_local(self, attempt: pb.Attempt) -> bool:
        location = self._locations.get(attempt.backend)
        if location is not None:
            return location == "local"
        return attempt.HasField("cost_nano_usd") and attempt.cost_nano_usd == 0 and tokens_of(attempt).complete

    def _need_not(self, admission: pb.Admission, tokens: Tokens) -> str | None:
        """Say why a request that a cloud answered did not need it, by the words of core/routing.py; None: it did, or
        nobody knows (an orphan tells no reason)."""
        if not admission.reason or admission.reason.startswith(_SMART_CLOUD):
            return None
        if self._context is not None and (tokens.total_input or 0) + (tokens.total_output or 0) > self._context:
            return None
        if admission.reason.startswith(_SMART_LOCAL):
            return "found simple or cost sensitive, but answered by a cloud"
        return "sent to a cloud by name or rule, never judged"

    def _failovers(self, record: pb.UsageRecord) -> None:
        attempts = sorted(record.attempts, key=lambda attempt: attempt.number)
        self.moved += len(attempts) > 1
        for before, after in pairwise(attempts):
            cause = before.error_type or (str(before.status) if before.status else _outcome(before))
            key, rest = (before.backend, after.backend, cause), ("other", "other", "other")
            if key not in self.moves and len(self.moves) >= MOST_ROWS:
                key = rest
            self.moves[key] = self.moves.get(key, 0) + 1
            self.wasted += before.cost_nano_usd

    def _rank(self, record: pb.UsageRecord, admitted: int) -> None:
        known = self._dear.get(record.admission.request_id)
        if known is not None:
            known.nano += record.delta_nano_usd
        elif record.delta_nano_usd > 0:
            self._dear[record.admission.request_id] = _dear(record, admitted)
            if len(self._dear) > 2 * CANDIDATES:
                self._dear = {one.request_id: one for one in self.dearest(CANDIDATES)}

    def dearest(self, most: int) -> list[Dear]:
        """Return the requests that cost most, dearest first."""
        return sorted(self._dear.values(), key=lambda one: (-one.nano, one.request_id))[:most]


def _row(rows: dict[tuple[str, str], _Row], key: tuple[str, str], rest: tuple[str, str],
         make: Callable[[], _Row]) -> _Row:
    if key not in rows and len(rows) >= MOST_ROWS:
        key = rest
    return rows.setdefault(key, make())


def _dear(record: pb.UsageRecord, admitted: int) -> Dear:
    last = record.attempts[-1] if record.attempts else pb.Attempt()
    tokens, who = tokens_of(last), record.admission
    return Dear(who.request_id, admitted, who.team, who.key, last.model_used, last.backend, tokens.total_input or 0,
                tokens.total_output or 0, record.delta_nano_usd, record.state)


def _outcome(attempt: pb.Attempt) -> str:
    return pb.Attempt.Outcome.Name(attempt.outcome).lower()


def tokens_of(attempt: pb.Attempt) -> Tokens:
    """Return the token classes of an attempt; what it does not tell is unknown."""
    seen = {field.name: value for field, value in attempt.tokens.ListFields()}
    return Tokens(**seen)


def admitted_ms(record: pb.UsageRecord, at_ms: int) -> int:
    """Return when the request was admitted: as told, else by its id (an orphan tells no time), else when recorded."""
    if record.admission.admitted_unix_ms:
        return record.admission.admitted_unix_ms
    rid = record.admission.request_id
    if len(rid) == 32 and rid[12] == "7":
        try:
            return int(rid[:12], 16)
        except ValueError:
            return at_ms
    return at_ms


def charges(record: pb.UsageRecord) -> Iterator[tuple[pb.Attempt | None, int]]:
    """Split what a record adds among its attempts: each one's own cost, and what is left to the one nobody settled.

    The parts always add up to `delta_nano_usd`. A correction by hand has no attempt: (None, delta).
    """
    attempts = list(record.attempts)
    if not attempts:
        if record.delta_nano_usd:
            yield None, record.delta_nano_usd
        return
    # The last unsettled attempt takes the rest; in a `late` record it is the only one, whatever its own cost.
    unsettled = [i for i, one in enumerate(attempts) if one.outcome == pb.Attempt.EXPIRED]
    rest = unsettled[-1] if unsettled else len(attempts) - 1
    own = [0 if i == rest else attempt.cost_nano_usd for i, attempt in enumerate(attempts)]
    own[rest] = record.delta_nano_usd - sum(own)
    yield from zip(attempts, own, strict=True)
