"""Decide a request of the past anew, under another configuration, from what the ledger kept of it. Pure.

The text of the request is gone: what the text model said then stands in for it. So is the state of that moment: no
backend is down, and of the headers only those are known that a decision named. Conversations are followed: each policy
remembers where it would have sent their requests before.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from extproc.config import GatewayConfig, WhenConfig
from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.core.pricing import Price, cost
from extproc.core.routing.aims import ByDollars
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.flow import Decision, decide
from extproc.core.routing.pins import pick
from extproc.core.routing.sessions import Memory, settle
from extproc.core.routing.signals import Signals
from extproc.core.routing.view import View
from extproc.core.usage import Tokens
from extproc.names import COST, LATENCY, ROUTE
from extproc.runtime import ANY, Catalogue, Runtime

_PACES = {"realtime": (LATENCY, "realtime"), "batch": (COST, "batch"), "ci": ("user-agent", "ci/")}
"""What a client says to be of a pace: the flow reads it from these headers."""


MOST_SESSIONS = 100_000
"""Conversations that are followed at once; of more the oldest are forgotten."""


class Unrated(Exception):  # noqa: N818 - a state of a record
    """The text of this request was not read then, and a policy would have to."""


class Recorded(msgspec.Struct, frozen=True):
    """A decided request as the ledger knows it. `rated`: what its text was judged; None: it was not read.

    `at`: when it was admitted, ms since the epoch.
    """

    request_id: str
    client: str
    route: str
    reason: str
    signals: Signals
    rated: Complexity | None = None
    at: int = 0


class Choice(msgspec.Struct, frozen=True):
    """What a policy says: the route, and the first backend that can serve. `refused`: why there is none."""

    route: str
    reason: str
    backend: str = ""
    model: str = ""
    location: str = ""
    price: Price | None = None
    refused: str = ""
    dialect: str = ""
    kept: bool = False
    """Whether its session remembers it; `escalates`: whether it stays at the complex chain then."""
    escalates: bool = False
    complex: bool = False
    """Whether it was weighed and found worth the complex chain: the day's dollars are its."""


class Answered(NamedTuple):
    """How a recorded request was answered: by which BACKEND/MODEL, with what tokens, when that ended (ms since the
    epoch), and what it cost in n$ (None: unknown)."""

    backend: str
    tokens: Tokens
    ended: int
    cost: int | None


class Policy:
    """A configuration to be asked about, not to serve with. Its aim follows what it is asked, so order matters."""

    def __init__(self, config: GatewayConfig, catalogue: Catalogue) -> None:
        """`catalogue`: the prices that count."""
        self.runtime = Runtime(config, catalogue)
        self._rated: Complexity | None = None
        self._view = View(config.routing, rate=self._rate)
        self._memories: dict[str, Memory] = {}

    def _rate(self, _signals: Signals) -> Complexity:
        if self._rated is None:
            raise Unrated
        return self._rated

    def judge(self, recorded: Recorded) -> Choice:
        """What this configuration does with a request. Raises Unrated."""
        self._rated = recorded.rated
        if isinstance(aim := self._view.aim(recorded.signals.org), ByDollars):
            aim.pace.alone(recorded.at)
        return rejudge(self.runtime, recorded, self._view, self._remembered(recorded))

    def _remembered(self, recorded: Recorded) -> Memory | None:
        memory = self._memories.get(recorded.signals.session)
        keep = self.runtime.config.routing.smart.sessions.keep
        return None if memory is None or recorded.at - memory.at > keep * 1000 else memory

    def follow(self, recorded: Recorded, choice: Choice, answered: Answered) -> None:
        """Remember in its session where a request would have gone, and what that would have cost the day. Where it did
        not go then, nothing was cached."""
        backend, tokens = f"{choice.backend}/{choice.model}", answered.tokens
        paid = answered.cost
        if backend != answered.backend:
            tokens = Tokens(input=tokens.total_input, output=tokens.total_output)
            paid = cost(tokens, choice.price)
        if choice.complex and isinstance(aim := self._view.aim(recorded.signals.org), ByDollars):
            aim.pace.paid(recorded.at, paid)
        session, smart = recorded.signals.session, self.runtime.config.routing.smart
        if not session or not choice.kept or not smart.sessions.sticky:
            return
        memory = settle(
            self._remembered(recorded), backend=backend, chain=choice.route, model=choice.model,
            dialect=choice.dialect, tokens=tokens, now=answered.ended,
            complex_chain=smart.complex if choice.escalates else "")
        self._memories.pop(session, None)
        self._memories[session] = memory
        if len(self._memories) > MOST_SESSIONS:
            del self._memories[next(iter(self._memories))]

    def matched(self, recorded: Recorded) -> set[int]:
        """The rules (by index) that hold for a request; none is asked about one that was pinned before them."""
        try:
            picked = pick(self.runtime, self._view.binding, self._view.rules, recorded.signals, recorded.request_id)
        except RequestError:  # its model is unknown here, which no rule changes
            return set()
        return {one.rule for one in picked.tried if one.matched}

    def headers(self, recorded: Recorded) -> dict[str, str]:
        """The headers that a decision under this configuration shows to have been there."""
        found: dict[str, str] = {}
        if recorded.reason.startswith(f"pinned by header {ROUTE}"):
            found[ROUTE] = recorded.route
        if recorded.signals.pace in _PACES:
            name, value = _PACES[recorded.signals.pace]
            found[name] = value
        rules = self.runtime.config.routing.rules
        rule = next((one for one in rules if recorded.reason.startswith(f"rule: {one.reason}")), None)
        if rule is not None and rule.when.header is not None:
            found.update({name.lower(): value.replace("*", "") or value for name, value in rule.when.header.items()})
        return found

    def unused(self, matched: set[int]) -> list[tuple[int, str, bool]]:
        """The other rules: index, reason, and whether they ask for what the ledger does not have."""
        return [(index, rule.reason, _unknowable(rule.when))
                for index, rule in enumerate(self.runtime.config.routing.rules) if index not in matched]


def _unknowable(when: WhenConfig) -> bool:
    """Whether a condition is on headers, or the state of backends at that moment."""
    given = when.given()
    if {"header", "down"} & given.keys():
        return True
    parts = [*(when.any_ or []), *(when.all_ or []), *([] if when.not_ is None else [when.not_])]
    return any(_unknowable(part) for part in parts)


def rejudge(runtime: Runtime, recorded: Recorded, view: View, memory: Memory | None = None) -> Choice:
    """Decide a recorded request under a configuration. Raises what `view.rate` raises."""
    signals = recorded.signals
    conversation = Conversation(signals.model, (), stream=signals.stream, task=signals.task)
    try:
        decision = decide(runtime, signals, conversation, view, now=recorded.at, rid=recorded.request_id,
                          client=recorded.client, memory=memory)
    except RequestError as error:
        return Choice("(refused)", str(error), refused=str(error))
    return _choice(runtime, decision)


def _choice(runtime: Runtime, decision: Decision) -> Choice:
    first = decision.chain.backends[0]
    if first.model == ANY:
        first = runtime.resolve(first.name, decision.model)
    return Choice(decision.route, decision.reason, first.name, first.model, first.location, first.price,
                  dialect=first.dialect, kept=decision.kept, escalates=decision.escalates,
                  complex=decision.valued is not None and decision.valued.complex)
