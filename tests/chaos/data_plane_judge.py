"""What must hold after a run: the provider's bill, the clients' answers and the ledger say the same. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from extproc.money.amounts import WindowState
from extproc.pb import usage_pb2 as pb
from tests.chaos.data_plane_provider import MOST_TOKENS, Entry

PRIMARY = ("done", "closed", "unsent", "expired")
KILL_REACH = 60.0
"""Seconds after its answer in which the death of a worker can still keep a settlement from the store."""
_NUMBER = re.compile(r"-b(\d+)$")
_Attempt = pb.Attempt


@dataclass
class Try:
    """One request of a client. `rid`: the gateway's id where its headers came; `strange`: the beginning of an error that
    is not in the words of the client's API."""

    marker: str
    team: str
    outcome: str = "broken"  # complete | refused | error | broken | aborted
    status: int = 0
    rid: str = ""
    told_cost: int | None = None
    started: float = 0.0
    ended: float = 0.0
    strange: str = ""


@dataclass
class Facts:
    """All that is known at rest. `need`: the bound of an attempt, by marker, backend and tokens granted."""

    tries: dict[str, Try]
    bill: list[Entry]
    records: list[pb.UsageRecord]
    windows: list[WindowState]
    limit_of: Callable[[str], int | None]
    need: Callable[[str, str, int], int]
    rollups: int
    kills: list[float]
    team_limits: dict[str, int]
    lying: bool = False
    purses: int = 0
    """What workers may have dispatched without the store, n$: the sum of all purses over all its absences."""
    watched: list[str] = field(default_factory=list)


class Judge:
    """Compare; `violations` and `seen` tell the result."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.violations = list(facts.watched)
        self.seen: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self._charged: set[int] = set()
        self._markers: dict[str, str] = {}
        self._listed: Counter[tuple[str, str]] = Counter()
        self._unplaced: Counter[str] = Counter()
        self._asked = {one.rid: one.marker for one in facts.tries.values() if one.rid}
        self._groups: dict[str, list[pb.UsageRecord]] = defaultdict(list)
        for record in facts.records:
            self._groups[record.admission.request_id].append(record)

    def judge(self) -> Judge:
        """Apply every rule."""
        self._windows()
        self._totals()
        for rid, records in self._groups.items():
            self._request(rid, records)
        self._clients()
        self._provider()
        self._teams()
        return self

    def _wrong(self, text: str) -> None:
        self.violations.append(text)

    # ------------------------------------------------------------------------------------ sums

    def _windows(self) -> None:
        for window in self.facts.windows:
            excused = self.facts.lying or self.facts.purses > 0
            self.violations += window_faults(window, self.facts.limit_of, debt=excused)
            if window.reserved:
                self._wrong(f"{window.window}: {window.reserved} are still reserved")
            unit = _unit(window)
            if unit == "concurrent":
                if window.spent:
                    self._wrong(f"{window.window}: requests at once were spent")
                continue
            by_records = sum(_share(record, unit) for record in self.facts.records if window.window in record.budgets)
            if window.spent + window.debt != by_records:
                self._wrong(f"{window.window}: {window.spent} + {window.debt} are charged, by records {by_records}")
            if window.limit and window.spent + window.debt > 0.9 * window.limit:
                self.seen["budget used up"] += 1

    def _totals(self) -> None:
        deltas = sum(record.delta_nano_usd for record in self.facts.records)
        org = [window for window in self.facts.windows if window.budget.startswith("org.")]
        charged = sum(window.spent + window.debt for window in org)
        if not deltas == charged == self.facts.rollups:
            self._wrong(f"sums differ: records {deltas}, the org's budget {charged}, rollups {self.facts.rollups}")
        self.sums["ledger"] = deltas
        self.sums["debt of all windows"] = sum(w.debt for w in self.facts.windows if _unit(w) == "usd")

    def _teams(self) -> None:
        """What the provider bills a team for answers that it gave in full is never above the team's budget."""
        if self.facts.lying:
            return
        billed: Counter[str] = Counter()
        for number in self._charged:
            entry = self.facts.bill[number]
            billed[self.facts.tries[entry.marker].team] += entry.cost or 0
        over = {team: billed[team] - limit for team, limit in self.facts.team_limits.items() if billed[team] > limit}
        self.sums["billed over budgets"] = sum(over.values())
        self.sums["sum of all purses"] = self.facts.purses
        if sum(over.values()) > self.facts.purses:
            self._wrong(f"teams are billed over their budgets: {over} n$, purses hold {self.facts.purses}")
        owed = Counter({window.budget: window.debt for window in self.facts.windows if _unit(window) == "usd"})
        if self.facts.purses and max(owed.values(), default=0) > self.facts.purses:
            self._wrong(f"debt of {owed.most_common(1)} n$, purses hold {self.facts.purses}")

    # ------------------------------------------------------------------------------------ requests

    def _request(self, rid: str, records: list[pb.UsageRecord]) -> None:
        for record in records:
            self.seen[f"record {record.state}"] += 1
            if record.unfunded_nano_usd and not self.facts.lying and record.state != "orphan":
                self._wrong(f"{rid}: {record.unfunded_nano_usd} n$ unfunded with honest providers")
        orphans = [record for record in records if record.state == "orphan"] if self.facts.purses else []
        records = [record for record in records if record not in orphans]
        if orphans:
            self._without_the_store(rid, orphans, records)
        if not records:
            return
        primary = [record for record in records if record.state in PRIMARY]
        if len(primary) != 1:
            self._wrong(f"{rid}: primary records {[record.state for record in records]}")
            return
        marker = primary[0].admission.model_asked
        if marker not in self.facts.tries:
            self._wrong(f"{rid}: nobody asked for {marker!r}")
            return
        if self._markers.get(marker, rid) != rid or (marker in self._markers and not orphans):
            self._wrong(f"{marker}: two requests of the ledger")
        self._markers[marker] = rid
        attempts = self._attempts(records)
        charge = sum(self._attempt(marker, primary[0], attempt) for attempt in attempts)
        delta = sum(record.delta_nano_usd for record in records)
        if delta != charge:
            self._wrong(f"{marker}: charged {delta} n$, its attempts cost {charge} ({[r.state for r in records]})")
        if primary[0].state == "unsent" and (primary[0].delta_nano_usd or primary[0].attempts):
            self._wrong(f"{marker}: unsent and charged {primary[0].delta_nano_usd} n$")
        if len(attempts) > 1:
            self.seen["several attempts"] += 1

    def _without_the_store(self, rid: str, orphans: list[pb.UsageRecord], others: list[pb.UsageRecord]) -> None:
        """Attempts that a purse paid for: each has one record, and is in no other."""
        attempts = [attempt for record in orphans for attempt in record.attempts]
        numbers = [attempt.number for attempt in (*attempts, *self._attempts(others))]
        if len(numbers) != len(set(numbers)):
            self._wrong(f"{rid}: attempts {numbers} are charged more than once")
        marker = self._asked.get(rid) or next((record.admission.model_asked for record in others), "")
        for record in orphans:
            [attempt] = record.attempts
            cost = attempt.cost_nano_usd
            if record.delta_nano_usd != cost:
                self._wrong(f"{rid}: charged {record.delta_nano_usd} n$, its attempt cost {cost}")
            if attempt.outcome == _Attempt.EXPIRED and not self.facts.kills:
                self._wrong(f"{rid}: nobody said what an attempt cost, and no worker was killed")
            if attempt.outcome == _Attempt.EXACT and (found := _NUMBER.search(attempt.model_reported)):
                marker = marker or self.facts.bill[int(found[1])].marker
                self._exact(marker, attempt)
            elif marker and cost > self.facts.need(marker, attempt.backend, MOST_TOKENS):
                self._wrong(f"{marker}: an attempt without the store is charged {cost} n$")
        for attempt in attempts:
            self.seen[f"without the store: {_Attempt.Outcome.Name(attempt.outcome).lower()}"] += 1
            if marker:
                self._listed[marker, attempt.backend] += 1
            else:
                self._unplaced[attempt.backend] += 1
        if marker:
            self._markers.setdefault(marker, rid)

    @staticmethod
    def _attempts(records: Iterable[pb.UsageRecord]) -> list[pb.Attempt]:
        """The attempts of a request, what is known late in the place of what was charged for it."""
        found: dict[int, pb.Attempt] = {}
        for record in records:
            found |= {attempt.number: attempt for attempt in record.attempts}
        return [found[number] for number in sorted(found)]

    def _attempt(self, marker: str, record: pb.UsageRecord, attempt: pb.Attempt) -> int:
        """Check one attempt and return what it must have been charged."""
        self._listed[marker, attempt.backend] += 1
        name = _Attempt.Outcome.Name(attempt.outcome).lower()
        self.seen[f"attempt {name}"] += 1
        need = self.facts.need(marker, attempt.backend, record.max_tokens) if attempt.backend else 0
        cost = attempt.cost_nano_usd if attempt.outcome != _Attempt.EXPIRED else need
        self.sums[name] += cost
        if attempt.outcome == _Attempt.EXPIRED and not self._killed_near(self.facts.tries[marker]):
            self._wrong(f"{marker}: nobody said what an attempt cost, and no worker was killed")
        if attempt.outcome == _Attempt.EXACT:
            self._exact(marker, attempt)
        elif not 0 <= cost <= need and not self.facts.lying:
            self._wrong(f"{marker}: an attempt {name} is charged {cost} n$ of at most {need}")
        if attempt.outcome == _Attempt.FAILED and cost and not self.facts.lying:
            self._wrong(f"{marker}: a failed attempt is charged {cost} n$")
        return cost

    def _exact(self, marker: str, attempt: pb.Attempt) -> None:
        """The provider's own bill has this answer, for this request, at this price, and nobody else is charged it."""
        found = _NUMBER.search(attempt.model_reported)
        number = int(found[1]) if found else -1
        if not 0 <= number < len(self.facts.bill):
            self._wrong(f"{marker}: an exact charge for an answer {attempt.model_reported!r} that was never given")
            return
        entry = self.facts.bill[number]
        if entry.marker != marker or entry.backend != attempt.backend:
            self._wrong(f"{marker}: charged for the answer to {entry.marker} of {entry.backend}")
        if entry.cost != attempt.cost_nano_usd:
            self._wrong(f"{marker}: charged {attempt.cost_nano_usd} n$, the provider's bill says {entry.cost}")
        if number in self._charged:
            self._wrong(f"{marker}: the answer {number} is charged twice")
        self._charged.add(number)
        self.sums["bill"] += entry.cost or 0
        self.seen["lies charged"] += entry.lied

    # ------------------------------------------------------------------------------------ clients and provider

    def _clients(self) -> None:
        """Who got a complete answer is charged exactly its bill, or the whole need where its worker died."""
        for one in self.facts.tries.values():
            self.seen[f"client {one.outcome}"] += 1
            if one.strange:
                self._wrong(f"{one.marker}: an error {one.status} not in the client's words: {one.strange}")
            if one.outcome != "complete":
                continue
            rid = self._markers.get(one.marker)
            if rid is None:
                self._wrong(f"{one.marker}: answered, and not in the ledger")
                continue
            if one.rid and one.rid != rid:
                self._wrong(f"{one.marker}: answered as {one.rid}, in the ledger as {rid}")
            self._answered(one, self._attempts(self._groups[rid]))

    def _answered(self, one: Try, attempts: list[pb.Attempt]) -> None:
        exact = [attempt for attempt in attempts if attempt.outcome == _Attempt.EXACT]
        if len(exact) == 1:
            self.seen["answered, charged exactly"] += 1
            if one.told_cost is not None and one.told_cost != exact[0].cost_nano_usd:
                self._wrong(f"{one.marker}: told {one.told_cost} n$, charged {exact[0].cost_nano_usd}")
            return
        outcomes = [_Attempt.Outcome.Name(attempt.outcome) for attempt in attempts]
        if any(attempt.outcome == _Attempt.EXPIRED for attempt in attempts) and self._killed_near(one):
            self.seen["answered, its worker died"] += 1
        else:
            self._wrong(f"{one.marker}: answered, but its attempts are {outcomes}")

    def _killed_near(self, one: Try) -> bool:
        return any(one.started <= kill <= one.ended + KILL_REACH for kill in self.facts.kills)

    def _provider(self) -> None:
        """Nothing reached a provider that the ledger does not list."""
        reached = Counter((entry.marker, entry.backend) for entry in self.facts.bill)
        for (marker, backend), times in reached.items():
            self.seen["provider asked"] += times
            listed = self._listed[marker, backend]
            if listed < times and self._unplaced[backend] >= times - listed:
                self._unplaced[backend] -= times - listed  # a client left before it knew the id of its request
            elif listed < times:
                states = [record.state for record in self._groups.get(self._markers.get(marker, ""), [])]
                self._wrong(f"{marker}: {backend} was asked {times} times, the ledger lists {listed} ({states})")
        for entry in self.facts.bill:
            self.seen[f"provider: {entry.fate}"] += 1


def in_words(body: bytes, *, anthropic: bool) -> bool:
    """Whether an error's body is one of the client's API, whose libraries read its message and kind."""
    try:
        told = json.loads(body)
        error = told["error"]
        named = isinstance(error["message"], str) and isinstance(error["type"], str)
        return named and ("code" in error) is not anthropic and (told.get("type") == "error") is anthropic
    except (ValueError, KeyError, TypeError):
        return False


def window_faults(window: WindowState, limit_of: Callable[[str], int | None], *, debt: bool) -> list[str]:
    """What is wrong with a window at any moment. `debt`: it may owe, since providers lie or the store was away."""
    limit = limit_of(window.budget)
    if limit is None:
        return [f"{window.window}: a window of no budget"]
    faults: list[str] = []
    if window.spent < 0 or window.reserved < 0:
        faults.append(f"{window.window}: negative {window.spent} {window.reserved}")
    if window.spent + window.reserved > limit:
        faults.append(f"{window.window}: {window.spent} + {window.reserved} of {limit}")
    if window.debt and not debt:
        faults.append(f"{window.window}: debt {window.debt} with honest providers")
    return faults


def _unit(window: WindowState) -> str:
    return window.budget.split(".")[2]


def _share(record: pb.UsageRecord, unit: str) -> int:
    """What a record adds to a window of that unit."""
    if unit == "usd":
        return record.delta_nano_usd
    if unit == "tokens":
        return record.delta_tokens
    return 1 if record.state in ("done", "closed", "expired", "orphan") and record.attempts else 0
