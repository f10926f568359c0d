"""The smart flow's last step: what the stronger chain is worth for this request, in this session, under the aim."""

from __future__ import annotations

import msgspec

from extproc.config import SmartConfig
from extproc.core.pricing import Price
from extproc.core.routing.aims import Choice
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.learning import cell_of, explores
from extproc.core.routing.objective import Side, Weighed, prior_for, side, weigh
from extproc.core.routing.sessions import Memory, Stay, stay
from extproc.core.routing.signals import Signals
from extproc.core.routing.view import View
from extproc.runtime import Backend


class Valued(msgspec.Struct, frozen=True):
    """A request that was weighed. `first`: the backend to be tried before the others of its chain; "" for none."""

    complex: bool
    reason: str
    rated: Complexity
    cell: str
    weighed: Weighed
    simple_side: Side
    complex_side: Side
    stay: Stay
    choice: Choice | None = None
    """What the aim said; None: the session decided."""
    counts: dict[str, int] = {}
    """To be added to the shared counts of the day (`Pace`)."""
    first: str = ""
    explored: bool = False


class Weighing(msgspec.Struct, frozen=True):
    """What a request is weighed with: of both chains the backends that can serve it, as they would be tried."""

    signals: Signals
    simple: tuple[Backend, ...]
    complex: tuple[Backend, ...]
    memory: Memory | None
    gone: str
    """Why the backend of the session cannot take this request; empty: it can."""
    moment: int
    """ms since the epoch."""
    rid: str
    writes: bool = False
    """Whether the request asks for its prompt to be written to a cache."""


def by_value(view: View, smart: SmartConfig, given: Weighing) -> Valued:
    """Weigh both chains, and choose one."""
    signals, now = given.signals, given.moment
    rated = view.rate(signals)
    cell = cell_of(rated.task, signals.input_tokens, signals.tools)
    low = _side(view, smart, given, rated, cell, given.simple, smart.simple)
    high = _side(view, smart, given, rated, cell, given.complex, smart.complex)
    weighed = weigh(low, high, *view.worth.of(high))
    aim = view.aim(signals.org)
    stayed = Stay()
    if smart.sessions.sticky:
        stayed = stay(given.memory, now, in_tool_loop=signals.in_tool_loop, chains=(smart.simple, smart.complex),
                      complex_chain=smart.complex, price=_price(given), gone=given.gone,
                      barred=aim.bars(weighed, now))
    if stayed.chain:
        sent = stayed.chain == smart.complex
        return Valued(sent, f"{stayed.why} ({rated.why})", rated, cell, weighed, low, high, stayed,
                      counts=aim.note(weighed, now, sent=sent), first=stayed.backend)
    choice = aim.decide(weighed, now)
    chosen, note = choice.complex, ""
    free = weighed.cost is not None and smart.day_nano is None  # else the amount of the day could be exceeded
    if given.memory is None and free and explores(given.rid, view.explore):
        chosen, note = not chosen, "explored instead: "
    reason = f"{note}{'complex' if chosen else 'simple'} ({choice.why}): {rated.why}"
    return Valued(chosen, _joined(reason, stayed.why), rated, cell, weighed, low, high, stayed, choice, choice.counts,
                  stayed.backend, bool(note))


def _side(view: View, smart: SmartConfig, given: Weighing, rated: Complexity, cell: str,
          backends: tuple[Backend, ...], route: str) -> Side:
    """What is expected of a chain: of the backend that it would try first."""
    backend, signals, known = backends[0], given.signals, view.knowledge
    prior = rated.chance(prior_for(smart, backend), cloud=backend.location == "cloud")
    output = known.habits.output(rated.task, signals.max_tokens)
    first_event = known.health.first_event_ms(backend.id, given.moment)
    warm = given.memory.warm(given.moment) if given.memory is not None and given.memory.backend == backend.id else 0
    chance = known.learned(signals.org).chance(cell, backend.id, prior).mean
    return side(backend, route, chance, signals.input_tokens, output,
                latency_ms=known.habits.latency_ms(backend.id, first_event, output), warm_tokens=warm,
                writes=given.writes)


def _price(given: Weighing) -> Price | None:
    """The price of the session's backend, where it is one of these."""
    name = given.memory.backend if given.memory is not None else ""
    return next((one.price for one in (*given.simple, *given.complex) if one.id == name), None)


def _joined(reason: str, more: str) -> str:
    return f"{reason}; {more}" if more else reason
