"""The decision flow: pins and rules, latency, cost, value; then hard constraints and availability."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.core.routing.busy import KEPT_MS
from extproc.core.routing.constraints import Able, Request, able, counts, unable
from extproc.core.routing.explanation import Explanation
from extproc.core.routing.health import waits
from extproc.core.routing.pins import SMART, Picked, pick
from extproc.core.routing.reasons import explained
from extproc.core.routing.sessions import Memory, lead
from extproc.core.routing.signals import Signals
from extproc.core.routing.value import Valued, Weighing, by_value
from extproc.core.routing.view import View
from extproc.names import COST, LATENCY, ROUTE
from extproc.runtime import ANY, Backend, Chain, Runtime

Order = tuple[tuple[Backend, ...], tuple[str, ...]]
"""Backends in the order they are to be tried, and why those at its end are there."""
Beside = tuple[str, tuple[str, ...]]
"""A chain that cannot serve a request, and why each of its backends cannot."""
_HELPERS = ("title", "topic", "probe", "helper", "commit")
"""Phases of agents beside the conversation, for which any model will do."""


class Basis:
    """What a decision was made with. `moment`: ms since the epoch. Printed, it shows nothing: it has the headers."""

    __slots__ = ("moment", "signals", "view")

    def __init__(self, signals: Signals, view: View, moment: int) -> None:
        self.signals, self.view, self.moment = signals, view, moment


class Decision(msgspec.Struct, frozen=True):
    """Which chain serves a request, and why in one line. `dropped` names candidates that cannot, with the reason."""

    route: str
    chain: Chain
    reason: str
    model: str
    dropped: tuple[str, ...] = ()
    beside: Beside = ("", ())
    """The chain that would have had the request, could it serve it."""
    count_here: bool = False
    """A token count for a model whose provider has no such call: we count."""
    moved: tuple[str, ...] = ()
    """Why backends stand at the end of the chain."""
    picked: Picked | None = None
    valued: Valued | None = None
    """How the request was weighed, where it was."""
    forced: bool = False
    """Whether another backend was to serve it that is down now: then the answer teaches nothing."""
    kept: bool = False
    """Whether who answers is remembered of its session."""
    escalates: bool = False
    """Whether an answer of the complex chain makes its session stay there: not where it is a class or an outage that
    sends it there."""
    basis: Basis | None = None
    """What it was made with."""

    @property
    def explanation(self) -> Explanation:
        """All of it in words. Made when it is asked for: of most requests nobody does."""
        if self.basis is None:
            return Explanation()
        return explained(self, self.basis.view, self.basis.signals, self.basis.moment)


def decide(runtime: Runtime, signals: Signals, conversation: Conversation, view: View, *, now: int = 0, rid: str = "",
           allowed: Sequence[str] | None = None, client: str = "openai", memory: Memory | None = None) -> Decision:
    """Choose the chain for a request in the schema `client`.

    `now`: ms since the epoch; `rid`: the request's id; `allowed`: the routes its key may use; `memory`: what is
    remembered of its session.

    Raises:
        RequestError: the model is unknown, the key may not use it, or no backend can serve the request.
    """
    picked = pick(runtime, view.binding, view.rules, signals, rid)
    request = Request(signals, conversation, client, signals.model)
    return _Flow(runtime, request, view, now, rid, allowed, memory, picked).decide()


def may_be_smart(runtime: Runtime, signals: Signals) -> bool:
    """Whether the smart flow may decide this request: then what is remembered of its session is worth asking for."""
    return signals.path == SMART or SMART in (
        signals.model, signals.headers.get(ROUTE), runtime.named(signals.model),
        *(route for rule in runtime.config.routing.rules for _, route in rule.targets()))


class _Flow:
    """One decision."""

    def __init__(self, runtime: Runtime, request: Request, view: View, now: int, rid: str,
                 allowed: Sequence[str] | None, memory: Memory | None, picked: Picked) -> None:
        self._runtime, self._request, self._view, self._now, self._rid = runtime, request, view, now, rid
        self._allowed, self._memory, self._picked = allowed, memory, picked
        self._basis = Basis(request.signals, view, now)

    def decide(self) -> Decision:
        picked = self._picked
        if picked.route != SMART:
            return self._to(picked.route, picked.reason)
        smart, signals = self._runtime.config.routing.smart, self._request.signals
        if signals.fills:
            return self._first("latency critical: fill in the middle",
                               smart.fim or smart.latency_critical, smart.latency_critical, smart.simple, smart.complex)
        if signals.pace == "realtime":
            return self._first(f"latency critical: {_said(signals)}",
                               smart.latency_critical, smart.complex, smart.simple)
        if signals.pace in ("batch", "ci"):
            return self._first(f"cost sensitive: {_said(signals)}", smart.cost_sensitive, smart.simple, smart.complex)
        return self._by_value()

    # -------------------------------------------------------------------------------- one chain

    def _to(self, route: str, reason: str, *, kept: bool = False, escalates: bool = False,
            beside: Beside = ("", ())) -> Decision:
        """Send the request to this chain, without those that cannot serve it. `kept`: its session has a say in which
        of them is first, and remembers who answered."""
        if not self._may(route):
            raise RequestError(f"this key may not use {route}; it may use: {', '.join(self._allowed or ())}",
                               kind="permission", param="model")
        chain, model = self._chain(route)
        request, first = msgspec.structs.replace(self._request, model=model), chain.backends[0]
        if request.signals.task == "count" and not counts(first, request):
            return Decision(route, chain, reason, model if first.model == ANY else first.model, count_here=True,
                            picked=self._picked, basis=self._basis)
        found = able(self._runtime, request, chain)
        if not isinstance(found, Able):
            raise unable(route, found)
        order = self._order(found.chain)
        if not kept:
            return self._decision(route, reason, found, *order, model)
        first, why = self._lead(order)
        made = self._decision(route, f"{reason}; {why}" if why else reason, found, *_led(*order, first), model)
        return msgspec.structs.replace(made, kept=True, escalates=escalates, beside=beside)

    def _lead(self, order: Order) -> tuple[str, str]:
        """Which of these the session wants first, and why in words; empty where it wants none."""
        smart, signals = self._runtime.config.routing.smart, self._request.signals
        memory = self._memory if smart.sessions.sticky else None
        named = None if memory is None else next((one for one in order[0] if one.id == memory.backend), None)
        if memory is None or named is None or self._gone(order):
            return "", ""
        return lead(memory, self._now, in_tool_loop=signals.in_tool_loop, price=named.price)

    def _may(self, route: str) -> bool:
        return self._allowed is None or route in self._allowed

    def _chain(self, route: str) -> tuple[Chain, str]:
        """The chain of a route, and the model to ask it for."""
        if (chain := self._runtime.chains.get(route)) is not None:
            return chain, self._request.model
        name, _, model = route.partition("/")
        if name not in self._runtime.pins:  # only the smart flow names chains that the file need not have
            raise RequestError(f"smart routing is not configured: there is no chain {route}", kind="not_found",
                               param="model")
        return self._runtime.pins[name], model

    def _order(self, chain: Chain) -> Order:
        """The backends of a chain with those at its end that are best not asked now, and why each of them is there."""
        if len(chain.backends) == 1 or not self._runtime.config.failover.passive_health:
            return chain.backends, ()
        known, busy = self._view.knowledge, self._view.knowledge.busy.total()
        if (memory := self._memory) is not None and self._now - memory.at < KEPT_MS:
            # Of its session the last request may still be counted, and this one takes its place.
            name = memory.backend.partition("/")[0]
            busy[name] = busy.get(name, 0) - 1
        return known.health.order(chain.backends, self._now, self._rid, busy)

    def _decision(self, route: str, reason: str, found: Able, order: tuple[Backend, ...], moved: tuple[str, ...],
                  model: str, valued: Valued | None = None) -> Decision:
        first = f"{found.chain.backends[0].id}: "
        if (told := next((why for why in moved if why.startswith(first)), None)) is not None:
            reason = f"{reason}; {told}"
        chain = found.chain if order == found.chain.backends else self._runtime.arranged(found.chain, order)
        return Decision(route, chain, reason, model, found.dropped, moved=moved, picked=self._picked, valued=valued,
                        basis=self._basis)

    # -------------------------------------------------------------------------------- two chains

    def _by_value(self) -> Decision:
        """Weigh the stronger chain against the other; where only one can serve, it does."""
        smart, signals = self._runtime.config.routing.smart, self._request.signals
        if signals.task in ("count", "embeddings"):
            return self._first(f"no choice to make: {signals.task}", smart.simple, smart.complex)
        if signals.phase in _HELPERS:
            return self._first(f"simple: a {signals.phase} call of {signals.agent}", smart.simple, smart.complex)
        simple, complex_ = self._able(smart.simple), self._able(smart.complex)
        if not isinstance(simple, Able):
            return self._to(smart.complex, f"only {smart.complex} can: {'; '.join(simple)}", kept=True, escalates=True,
                            beside=(smart.simple, simple))
        if not isinstance(complex_, Able):
            return self._to(smart.simple, f"only {smart.simple} can: {'; '.join(complex_)}", kept=True,
                            beside=(smart.complex, complex_))
        low, high = self._order(simple.chain), self._order(complex_.chain)
        weighed = by_value(self._view, smart, Weighing(
            signals, low[0], high[0], self._memory, self._gone(low, high), self._now, self._rid))
        valued = self._up(weighed, low, high)
        usual = simple.chain.backends[0], complex_.chain.backends[0]
        forced = valued is not weighed or (low[0][0], high[0][0]) != usual
        route, found, (order, moved) = (
            (smart.complex, complex_, high) if valued.complex else (smart.simple, simple, low))
        made = self._decision(route, valued.reason, found, *_led(order, moved, valued.first), signals.model, valued)
        return msgspec.structs.replace(made, forced=forced, kept=True, escalates=valued is weighed)

    def _first(self, reason: str, *routes: str) -> Decision:
        """The first of these chains that can serve and is up, else the first that can; where none can it says why. In a
        tool loop it is the one that answered before, if it still can."""
        if (route := self._loop(routes)) is not None:
            return self._to(route, reason, kept=True)
        can = why = down = ""
        beside: Beside = ("", ())
        for route in dict.fromkeys(routes):
            found = self._able(route)
            if not isinstance(found, Able):
                why, beside = why or "; ".join(found), beside if why else (route, found)
            elif away := self._down(found.chain.backends):
                can, down = can or route, down or away
            elif down:
                return self._to(route, f"only {route} is up: {down}", kept=True)
            else:
                return self._to(route, f"only {route} can: {why}" if why else reason, kept=True, beside=beside)
        return self._to(can or routes[0], f"only {can} can: {why}" if can and can != routes[0] else reason, kept=True,
                        beside=beside)

    def _loop(self, routes: tuple[str, ...]) -> str | None:
        """The one of these chains in which this session is amidst a tool loop, if its backend can go on."""
        memory = self._memory
        if (memory is None or memory.chain not in routes or not self._request.signals.in_tool_loop
                or not self._runtime.config.routing.smart.sessions.sticky):
            return None
        found = self._able(memory.chain)
        backends = found.chain.backends if isinstance(found, Able) else ()
        named = tuple(one for one in backends if one.id == memory.backend)
        return None if not named or self._down(named) else memory.chain

    def _up(self, valued: Valued, low: Order, high: Order) -> Valued:
        """The other chain, where of the chosen one no backend is to be asked now."""
        smart, signals = self._runtime.config.routing.smart, self._request.signals
        chosen, other = (high, low) if valued.complex else (low, high)
        if not (why := self._down(chosen[0])) or self._down(other[0]):
            return valued
        if not valued.complex and self._view.aim(signals.org).bars(valued.weighed, self._now):
            return valued
        name = smart.simple if valued.complex else smart.complex
        return msgspec.structs.replace(valued, complex=not valued.complex, first="", explored=False,
                                       reason=f"only {name} is up: {why} ({valued.rated.why})")

    def _down(self, backends: tuple[Backend, ...]) -> str:
        """Why none of these is to be asked now; empty: one may be. A slow one is still better than none."""
        if not self._runtime.config.failover.passive_health:
            return ""
        told = ""
        for backend in backends:
            state, why = self._view.knowledge.health.state(backend.id, self._now)
            if state not in ("open", "cooling") or waits(why):
                return ""
            told = told or f"{backend.id}: {why}"
        return told

    def _able(self, route: str) -> Able | tuple[str, ...]:
        """The chain without those that cannot serve this request, or in words why it is out of the question."""
        if not self._may(route):
            return (f"this key may not use {route}",)
        chain, _ = self._chain(route)
        if self._request.signals.task == "count":
            return Able(chain)
        return able(self._runtime, self._request, chain)

    def _gone(self, *orders: Order) -> str:
        """Why the backend of this session cannot take its next request; empty: it can, or there is none. In a tool
        loop one that is slow or has no free place still can."""
        if self._memory is None or not (backend := self._memory.backend):
            return ""
        for order, moved in orders:
            if (told := next((why for why in moved if why.startswith(f"{backend}: ")), None)) is not None:
                why = told.partition(": ")[2]
                return "" if self._request.signals.in_tool_loop and waits(why) else why
            if any(one.id == backend for one in order):
                return ""
        return "it cannot serve this request"


def _led(order: tuple[Backend, ...], moved: tuple[str, ...], first: str) -> Order:
    """The order with this backend, which can be asked, before the others."""
    if not first:
        return order, moved
    led = [backend for backend in order if backend.id == first]
    return (*led, *[backend for backend in order if backend.id != first]), tuple(
        why for why in moved if not why.startswith(f"{first}: "))


def _said(signals: Signals) -> str:
    """What tells the pace of a request."""
    if signals.pace == "ci":
        return "a CI client"
    if signals.headers.get(LATENCY, "").lower() == signals.pace:
        return f"header {LATENCY}"
    cheap = signals.pace == "batch" and signals.headers.get(COST, "").lower() in ("batch", "low")
    return f"header {COST}" if cheap else "its service tier"
