"""A decision told in full: what was known, what was tried, what it was weighed with, what would have had to differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from extproc.core.routing.explanation import Candidate, Explanation, Fact, Session, would_have
from extproc.core.routing.objective import Side
from extproc.core.routing.signals import Signals
from extproc.core.routing.value import Valued
from extproc.core.routing.view import View

if TYPE_CHECKING:
    from extproc.core.routing.flow import Decision


def explained(decision: Decision, view: View, signals: Signals, now: int) -> Explanation:
    """The explanation of a decision. It holds measures and names, and of the text only words of the model's own."""
    picked, valued, smart = decision.picked, decision.valued, view.routing.smart
    shadows = frozenset(place for place, rule in enumerate(view.routing.rules) if rule.targets() and not (
        rule.route or rule.split or rule.canary))
    made = Explanation(
        at=now, route=decision.route, reason=decision.reason, model=decision.model, facts=_facts(signals),
        tried=picked.tried if picked is not None else (), shadow=picked.shadow if picked is not None else "",
        candidates=_candidates(decision, view, now))
    if valued is None:
        return msgspec.structs.replace(made, counterfactual=would_have(made, smart.simple, smart.complex, shadows))
    return _weighed(made, valued, smart.kind, signals.session, would_have(made, smart.simple, smart.complex, shadows))


def _facts(signals: Signals) -> dict[str, Fact]:
    return {name: value for name, value in signals.facts().items()
            if value is not None and value != "" and value is not False and name != "session"}


def _candidates(decision: Decision, view: View, now: int) -> tuple[Candidate, ...]:
    """The backends in the order they are tried, then those that cannot serve the request."""
    sides: dict[str, Side] = {}
    if (valued := decision.valued) is not None:
        sides = {one.backend: one for one in (valued.simple_side, valued.complex_side)}
    health, found = view.knowledge.health, list[Candidate]()
    for place, backend in enumerate(decision.chain.backends):
        side = sides.pop(backend.id, None)
        found.append(_candidate(backend.id, decision.route, side, health.state(backend.id, now)[0],
                                health.first_event_ms(backend.id, now), used=place == 0))
    found += [_candidate(side.backend, side.chain, side, health.state(side.backend, now)[0],
                         health.first_event_ms(side.backend, now), used=False) for side in sides.values()]
    for chain, told in ((decision.route, decision.dropped), decision.beside):
        found += [Candidate(name, chain, dropped=why) for name, colon, why in (one.partition(": ") for one in told)
                  if colon]
    return tuple(found)


def _candidate(backend: str, chain: str, side: Side | None, state: str, first_event_ms: int | None, *,
               used: bool) -> Candidate:
    return Candidate(backend, chain, state, None if side is None else round(side.chance, 4),
                     None if side is None else side.price, first_event_ms, used=used)


def _weighed(made: Explanation, valued: Valued, aim: str, session_id: str, otherwise: tuple[str, ...]) -> Explanation:
    rated, weighed, choice, stay = valued.rated, valued.weighed, valued.choice, valued.stay
    session = None
    if stay.why:
        session = Session(session_id[:8], moved=stay.why.startswith("session leaves"),
                          why=stay.why)
    told = () if choice is None else (choice.threshold.words,)
    if choice is None and session is not None:
        told = ("without the session it would have been weighed anew",)
    return msgspec.structs.replace(
        made, task=rated.task, score=rated.score, words=tuple(part for part in rated.why.split(", ") if part),
        p_local=_rounded(rated.p_local), p_cloud=_rounded(rated.p_cloud), aim=aim, cell=valued.cell, session=session,
        parts={"worth": weighed.worth, "price": -weighed.price, "waiting": -weighed.waiting, "switch": -weighed.switch,
               "gap": weighed.gap},
        counterfactual=(*told, *otherwise))


def _rounded(chance: float | None) -> float | None:
    return None if chance is None else round(chance, 4)
