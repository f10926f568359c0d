"""The route by what is said outright: binding rules, what the client pins, the other rules, its model."""

from __future__ import annotations

from typing import NamedTuple

from extproc.core.errors import RequestError
from extproc.core.routing.rules import Rules, Tried, judge
from extproc.core.routing.signals import Signals
from extproc.names import ROUTE
from extproc.runtime import Runtime

SMART = "smart"


class Picked(NamedTuple):
    """A route; `smart`: the flow goes on. `rule`: the place in routing.rules of the one that held, -1 for none."""

    route: str
    reason: str
    tried: tuple[Tried, ...] = ()
    shadow: str = ""
    rule: int = -1


def pick(runtime: Runtime, binding: Rules, rules: Rules, signals: Signals, rid: str) -> Picked:
    """Choose by pins and rules. `binding`: the rules that hold whatever a client pins; `rid`: the request's id.

    Raises:
        RequestError: the model or the route that the client names is unknown.
    """
    bound = judge(binding, signals, rid)
    tried, shadow = (bound.tried, bound.shadow) if bound is not None else ((), "")
    if bound is not None and bound.route:
        return Picked(bound.route, f"rule: {bound.reason}", tried, shadow, bound.rule)
    if (pinned := _pinned(runtime, signals)) is not None:
        return Picked(*pinned, tried, shadow)
    verdict = judge(rules, signals, rid)
    if verdict is not None:
        tried, shadow = (*tried, *verdict.tried), shadow or verdict.shadow
        if verdict.route:
            return Picked(verdict.route, f"rule: {verdict.reason}", tried, shadow, verdict.rule)
    if signals.path == "smart":
        return Picked(SMART, "path /v1/smart", tried, shadow)
    return Picked(_named(runtime, signals.model), f"pinned by model {signals.model}", tried, shadow)


def _pinned(runtime: Runtime, signals: Signals) -> tuple[str, str] | None:
    """What a client pins by its header or its path."""
    if (wanted := signals.headers.get(ROUTE)) is not None:
        if not _known(runtime, wanted):
            raise RequestError(f"{ROUTE}: unknown route {wanted}; known: {', '.join(runtime.chains)}", param=ROUTE)
        return wanted, f"pinned by header {ROUTE}"
    if signals.path == "local":
        if "local" not in runtime.chains:
            raise RequestError("no chain named local is configured", kind="not_found", param="path")
        return "local", "pinned by path /v1/local"
    return None


def _named(runtime: Runtime, model: str) -> str:
    """The route of a client's model name."""
    named = SMART if model == SMART else runtime.named(model)
    if named is not None:
        return named
    if _known(runtime, model):
        return model
    for chain in runtime.chains.values():
        for backend in chain.backends:
            if backend.model == model:
                return backend.id
    known = [*runtime.config.models, *runtime.chains]
    raise RequestError(f"unknown model {model[:100]}; try one of: {', '.join(known[:20])}",
                       kind="not_found", param="model")


def _known(runtime: Runtime, route: str) -> bool:
    backend, slash, model = route.partition("/")
    return route == SMART or route in runtime.chains or bool(slash and model and backend in runtime.pins)
