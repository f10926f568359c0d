"""What another routing policy would have done with the requests of the ledger, and what that would have cost. Pure."""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from extproc.core.conversation import Task
from extproc.core.pricing import cost
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.rejudge import Answered, Choice, Policy, Recorded, Unrated
from extproc.core.routing.signals import PathRoute, Signals
from extproc.core.usage import Tokens
from extproc.pb import usage_pb2 as pb
from extproc.reports.periods import Period
from extproc.reports.spending import PRIMARY, admitted_ms, tokens_of
from extproc.reports.tables import Column, Row, Table

MOST_ROWS = 1_000
"""Different moves that are told apart (a client may name any model); the rest is summed as `other`."""
PPM = 1_000_000
LEFT_OUT: tuple[Row, ...] = (
    ("health of backends", "all are up, with room, as fast as a gateway assumes that has just started"),
    ("what was learned", "the priors of the configuration"),
    ("texts", "what the text model said of them then"),
    ("headers", "those that a decision shows to have been there"),
    ("routes of keys", "every key may use all"),
    ("conversations of older records", "each of their requests is one of its own"),
)
"""Told with every result: without it the figures say more than they can."""
_ANSWERED = (pb.Attempt.EXACT, pb.Attempt.ESTIMATED)
FactName = Literal["score_ppm", "p_local_ppm", "p_cloud_ppm", "budget_left_ppm"]


class Move(msgspec.Struct):
    """Requests that a policy takes from one place to another. The amounts (n$) are of the `compared` ones."""

    requests: int = 0
    compared: int = 0
    actual: int = 0
    planned: int = 0


class Example(msgspec.Struct, frozen=True):
    """A request that another policy treats differently. Amounts in n$; None: unknown."""

    request_id: str
    at: int
    before: str
    after: str
    reason: str
    actual: int | None
    planned: int | None

    @property
    def weight(self) -> int:
        """How much it costs more or less, in n$."""
        return 0 if self.actual is None or self.planned is None else abs(self.planned - self.actual)


def recorded_of(record: pb.UsageRecord) -> Recorded:
    """A record with facts as it can be judged again; its headers are not known yet."""
    who, facts = record.admission, record.admission.facts
    # The names are ours, written by a version that may have had others: each is only ever compared.
    path, kind = cast("PathRoute", facts.path or "plain"), cast("Task", facts.kind or "chat")
    signals = Signals(
        path=path, model=who.model_asked, stream=who.stream,
        max_tokens=facts.max_tokens if facts.HasField("max_tokens") else None, input_tokens=facts.input_tokens,
        turns=facts.turns, tools=facts.tools, in_tool_loop=facts.tool_loop, needs=frozenset(facts.needs), ask="",
        headers={}, key=who.key, team=who.team, task=kind, fills=facts.fills, endpoint=who.client_schema or "openai",
        project=who.project, user=who.user, org=who.org, tool_rounds=facts.tool_rounds, images=facts.images,
        structured=facts.structured, thinking=facts.thinking, effort=facts.effort, agent=facts.agent or "other",
        phase=facts.phase or "main", pace=facts.pace or "interactive",
        budget_left=_share(facts, "budget_left_ppm"), warm_tokens=facts.warm_tokens,
        session=facts.session)
    score = _share(facts, "score_ppm")
    rated = None if score is None else Complexity(
        score, "as recorded", facts.task, _share(facts, "p_local_ppm"), _share(facts, "p_cloud_ppm"))
    return Recorded(who.request_id, signals.endpoint, who.route, who.reason, signals, rated, who.admitted_unix_ms)


def _share(facts: pb.Facts, name: FactName) -> float | None:
    return getattr(facts, name) / PPM if facts.HasField(name) else None


class WhatIf:
    """Takes records one by one, in the order of the ledger, and holds them against two policies.

    What changes is the difference between the two, not between the planned one and what was done then: an outage or an
    older configuration would else be taken for the policy's work. How often the current one says something else than
    was done is told as `otherwise`.
    """

    def __init__(self, period: Period, current: Policy, planned: Policy, top: int = 10) -> None:
        self._period, self._current, self._planned, self._top = period, current, planned, top
        self.requests = self.without_facts = self.unrated = self.corrections = 0
        self.judged = self.changed = self.refused = self.otherwise = self.no_answer = self.unpriced = 0
        self.cloud_before = self.cloud_after = 0
        self.total = Move()
        self.moves: dict[tuple[str, str], Move] = {}
        self._matched: set[int] = set()
        self._examples: list[Example] = []

    def add(self, at_ms: int, record: pb.UsageRecord) -> None:
        """Add a record that the store took at that moment, if its request was admitted in the period."""
        admitted = admitted_ms(record, at_ms)
        if not self._period.start_ms <= admitted < self._period.end_ms:
            return
        if record.state not in PRIMARY:
            self.corrections += 1
            return
        self.requests += 1
        if not record.admission.HasField("facts"):
            self.without_facts += 1
            return
        recorded = recorded_of(record)
        signals = msgspec.structs.replace(recorded.signals, headers=self._current.headers(recorded))
        recorded = msgspec.structs.replace(recorded, signals=signals)
        try:
            before, after = self._current.judge(recorded), self._planned.judge(recorded)
        except Unrated:
            self.unrated += 1
            return
        self._matched |= self._planned.matched(recorded)
        self._judge(record, admitted, before, after)
        if (answered := _answered(record, admitted)) is not None:
            self._current.follow(recorded, before, answered)
            self._planned.follow(recorded, after, answered)

    def _judge(self, record: pb.UsageRecord, admitted: int, before: Choice, after: Choice) -> None:
        self.judged += 1
        self.refused += bool(after.refused)
        self.otherwise += before.route != record.admission.route
        self.cloud_before += before.location == "cloud"
        self.cloud_after += after.location == "cloud"
        changed = _place(before) != _place(after)
        self.changed += changed
        actual, tokens = self._paid(record)
        planned = actual
        if changed and tokens is not None:
            planned = None if after.refused else cost(tokens, after.price)
            self.unpriced += planned is None and not after.refused
        self._sum(_names(before, after), actual, planned)
        if changed:
            self._keep(Example(record.admission.request_id, admitted, _full(before), _full(after), after.reason, actual,
                               planned))

    def _paid(self, record: pb.UsageRecord) -> tuple[int | None, Tokens | None]:
        """What a request cost in all, and its tokens with nothing cached: another backend has none of it."""
        answer = _answer(record)
        seen = None if answer is None else tokens_of(answer)
        if answer is None or seen is None or not seen.complete:
            self.no_answer += 1
            return None, None
        plain = Tokens(input=seen.total_input, output=seen.total_output)
        return record.delta_nano_usd if answer.HasField("cost_nano_usd") else None, plain

    def _sum(self, names: tuple[str, str], actual: int | None, planned: int | None) -> None:
        if names not in self.moves and len(self.moves) >= MOST_ROWS:
            names = ("other", "other")
        for move in (self.moves.setdefault(names, Move()), self.total):
            move.requests += 1
            if actual is not None and planned is not None:
                move.compared += 1
                move.actual += actual
                move.planned += planned

    def _keep(self, example: Example) -> None:
        self._examples.append(example)
        if len(self._examples) > 4 * self._top + 100:
            self._examples = self.examples()

    def examples(self) -> list[Example]:
        """The requests whose cost changes most, then the earliest."""
        return sorted(self._examples, key=lambda one: (-one.weight, one.at, one.request_id))[: self._top]

    def unused(self) -> list[tuple[int, str, bool]]:
        """The planned policy's rules that held for no request: index, reason, whether the ledger cannot tell."""
        return self._planned.unused(self._matched)


def _answer(record: pb.UsageRecord) -> pb.Attempt | None:
    return next((one for one in reversed(record.attempts) if one.outcome in _ANSWERED), None)


def _answered(record: pb.UsageRecord, admitted: int) -> Answered | None:
    """What the answer leaves behind in its session; None: there was none."""
    if (answer := _answer(record)) is None:
        return None
    ended = admitted + sum(attempt.duration_ms for attempt in record.attempts)
    return Answered(f"{answer.backend}/{answer.model_used}", tokens_of(answer), ended,
                    record.delta_nano_usd if answer.HasField("cost_nano_usd") else None)


def _place(choice: Choice) -> tuple[str, str, str]:
    return choice.route, choice.backend, choice.model


def _full(choice: Choice) -> str:
    return choice.route if choice.refused or choice.route == f"{choice.backend}/{choice.model}" else (
        f"{choice.route} ({choice.backend}/{choice.model})")


def _names(before: Choice, after: Choice) -> tuple[str, str]:
    """What a row is called: the routes, with the backends where only these differ."""
    if before.route == after.route and _place(before) != _place(after):
        return _full(before), _full(after)
    return before.route, after.route


# ---------------------------------------------------------------------------------------- tables


def sections(found: WhatIf) -> dict[str, Table]:
    """Return every section under its name, in order."""
    return {"total": _total(found), "routes": _routes(found), "unused_rules": _unused(found),
            "examples": _examples(found), "left_out": Table(
                (Column("what"), Column("taken")), [*LEFT_OUT], title="What this does not know, and takes instead")}


def _total(found: WhatIf) -> Table:
    columns = (
        Column("requests", "count"), Column("judged", "count"),
        Column("without_facts", "count", "not judged: recorded without facts"),
        Column("unrated", "count", "not judged: their text was not read"), Column("changed", "count"),
        Column("refused", "count", "refused by the policy"),
        Column("otherwise", "count", "decided otherwise then than now"),
        Column("cloud_before", "permille", "first asked of a cloud now"),
        Column("cloud_after", "permille", "first asked of a cloud under the policy"),
        Column("compared", "count", "cost compared"), Column("no_answer", "count", "no answer of known usage"),
        Column("unpriced", "count", "new backend without a price"),
        Column("corrections", "count", "corrections left out"),
        Column("actual", "usd", "cost recorded"), Column("planned", "usd", "cost under the policy"),
        Column("difference", "usd"),
    )
    every, total = max(found.judged, 1), found.total
    row = (found.requests, found.judged, found.without_facts, found.unrated, found.changed, found.refused,
           found.otherwise, found.cloud_before * 1000 // every, found.cloud_after * 1000 // every, total.compared,
           found.no_answer, found.unpriced, found.corrections, total.actual, total.planned,
           total.planned - total.actual)
    title = ("The requests of the ledger under this policy (changed ones: the same tokens at the price of the new "
             "chain's first backend, cached ones as plain input)")
    return Table(columns, [row], title=title, upright=True)


def _routes(found: WhatIf) -> Table:
    columns = (Column("from_route", title="from"), Column("to_route", title="to"), Column("requests", "count"),
               Column("compared", "count"), Column("actual", "usd", "recorded"), Column("planned", "usd", "under it"),
               Column("difference", "usd"))
    ordered = sorted(found.moves.items(), key=lambda item: (item[0][0] == item[0][1], -item[1].requests, item[0]))
    rows: list[Row] = [(*names, *msgspec.structs.astuple(move), move.planned - move.actual) for names, move in ordered]
    return Table(columns, rows, title="Where requests go, now and under the policy")


def _unused(found: WhatIf) -> Table:
    columns = (Column("rule"), Column("reason"), Column("note"))
    rows: list[Row] = [(f"rules[{index}]", reason, "asks for what the ledger does not have" if unknowable else "")
                       for index, reason, unknowable in found.unused()]
    return Table(columns, rows, title="Rules that held for none of these requests")


def _examples(found: WhatIf) -> Table:
    columns = (Column("request_id"), Column("admitted", "moment", "admitted (UTC)"), Column("before", title="now"),
               Column("after", title="under the policy"), Column("reason"), Column("actual", "usd", "recorded"),
               Column("planned", "usd", "under it"))
    rows: list[Row] = [(one.request_id, one.at, one.before, one.after, one.reason, one.actual, one.planned)
                       for one in found.examples()]
    return Table(columns, rows, title="Requests that change, those of the largest difference first")
