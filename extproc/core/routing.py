"""The decision flow: pinned, rules, latency, cost, complexity; then hard constraints. One reason in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from extproc.config import WhenConfig
from extproc.core.complexity import Scorer
from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.core.signals import Signals
from extproc.dialects import DIALECTS
from extproc.names import COST, LATENCY, ROUTE
from extproc.runtime import ANY, Backend, Chain, Runtime
from extproc.schemas.base import Target

CAUTION = 160
"""Per cent of the estimated tokens that a prompt may really have (code and non-English text have more per byte)."""
UNTOLD_CONTEXT = 4096
"""What Ollama loads on a machine with under 24 GiB of video memory when nobody says more."""
_BATCH_AGENTS = ("github-actions", "gitlab-runner", "jenkins", "buildkite", "ci/")


class Decision(msgspec.Struct, frozen=True):
    """Which chain serves a request, and why. `dropped` names candidates that cannot, with the reason."""

    route: str
    chain: Chain
    reason: str
    model: str
    dropped: tuple[str, ...] = ()
    count_here: bool = False
    """A token count for a model whose provider has no such call: we count."""


def decide(runtime: Runtime, signals: Signals, conversation: Conversation, scorer: Scorer,
           allowed: Sequence[str] | None = None, client: str = "openai") -> Decision:
    """Choose the chain for a request in the schema `client`.

    Raises:
        RequestError: the model is unknown, the key may not use it, or no backend can serve the request.
    """
    route, reason = _route(runtime, signals, scorer)
    if allowed is not None and route not in allowed:
        raise RequestError(f"this key may not use {route}; it may use: {', '.join(allowed)}", kind="permission",
                           param="model")
    chain = runtime.chains.get(route)
    model = signals.model
    if chain is None:
        name, _, model = route.partition("/")
        if name not in runtime.pins:  # only the smart flow names chains that the file need not have
            raise RequestError(f"smart routing is not configured: there is no chain {route}", kind="not_found",
                               param="model")
        chain = runtime.pins[name]
    request = _Request(signals, conversation, client, model)
    if signals.task == "count" and not _counts(runtime, chain.backends[0], request):
        first = chain.backends[0]
        return Decision(route, chain, reason, model if first.model == ANY else first.model, count_here=True)
    return _constrain(runtime, request, route, chain, reason)


class _Request(msgspec.Struct, frozen=True):
    """What candidates are held against."""

    signals: Signals
    conversation: Conversation
    client: str
    model: str


def _counts(runtime: Runtime, backend: Backend, request: _Request) -> bool:
    """Whether the provider itself counts tokens."""
    return DIALECTS[backend.dialect].wire(request.client) is not None


def _route(runtime: Runtime, signals: Signals, scorer: Scorer) -> tuple[str, str]:
    """The name of a chain, or BACKEND/MODEL, with the reason."""
    if (wanted := signals.headers.get(ROUTE)) is not None:
        if not _known(runtime, wanted):
            raise RequestError(f"{ROUTE}: unknown route {wanted}; known: {', '.join(runtime.chains)}", param=ROUTE)
        return (wanted, f"pinned by header {ROUTE}") if wanted != "smart" else _smart(runtime, signals, scorer)
    if signals.path == "local":
        if "local" not in runtime.chains:
            raise RequestError("no chain named local is configured", kind="not_found", param="path")
        return "local", "pinned by path /v1/local"
    for rule in runtime.config.routing.rules:
        if _matches(rule.when, signals):
            if rule.route == "smart":
                return _smart(runtime, signals, scorer)
            return rule.route, f"rule: {rule.reason}"
    if signals.path == "smart":
        return _smart(runtime, signals, scorer)
    named = "smart" if signals.model == "smart" else runtime.named(signals.model)
    if named == "smart":
        return _smart(runtime, signals, scorer)
    if named is not None:
        return named, f"pinned by model {signals.model}"
    if _known(runtime, signals.model):
        return signals.model, f"pinned by model {signals.model}"
    for chain in runtime.chains.values():
        for backend in chain.backends:
            if backend.model == signals.model:
                return backend.id, f"pinned by model {signals.model}"
    known = [*runtime.config.models, *runtime.chains]
    raise RequestError(f"unknown model {signals.model[:100]}; try one of: {', '.join(known[:20])}",
                       kind="not_found", param="model")


def _known(runtime: Runtime, route: str) -> bool:
    backend, slash, model = route.partition("/")
    return route == "smart" or route in runtime.chains or bool(slash and model and backend in runtime.pins)


def _matches(when: WhenConfig, signals: Signals) -> bool:
    if when.header and any(signals.headers.get(k.lower()) != v for k, v in when.header.items()):
        return False
    checks = (
        (when.path, signals.path), (when.model, signals.model), (when.key, signals.key), (when.team, signals.team),
        (when.stream, signals.stream), (when.tools, signals.tools > 0),
    )
    if any(wanted is not None and wanted != actual for wanted, actual in checks):
        return False
    return when.tokens_above is None or signals.input_tokens > when.tokens_above


def _smart(runtime: Runtime, signals: Signals, scorer: Scorer) -> tuple[str, str]:
    smart = runtime.config.routing.smart
    if signals.headers.get(LATENCY) == "realtime":
        return smart.latency_critical, f"latency critical: header {LATENCY}"
    if signals.fills:
        return smart.fim or smart.latency_critical, "latency critical: fill in the middle"
    if signals.headers.get(COST) in ("batch", "low"):
        return smart.cost_sensitive, f"cost sensitive: header {COST}"
    agent = signals.headers.get("user-agent", "").lower()
    if any(word in agent for word in _BATCH_AGENTS):
        return smart.cost_sensitive, "cost sensitive: a CI client"
    rated = scorer(signals)
    if rated.above is not None:
        route, word = (smart.complex, "complex") if rated.above else (smart.simple, "simple")
        share = f"the hardest {smart.complex_share or 0:.0%} go to {smart.complex}"
        return route, f"{word} ({rated.score}; {share}): {rated.why}"
    if rated.score >= smart.threshold:
        return smart.complex, f"complex ({rated.score} >= {smart.threshold}): {rated.why}"
    return smart.simple, f"simple ({rated.score} < {smart.threshold}): {rated.why}"


def _constrain(runtime: Runtime, request: _Request, route: str, chain: Chain, reason: str) -> Decision:
    """Drop the candidates that cannot serve this request; none left is the client's error."""
    keep: list[Backend] = []
    dropped: list[str] = []
    for backend in chain.backends:
        actual = runtime.resolve(backend.name, request.model) if backend.model == ANY else backend
        if why := _cannot(actual, request):
            dropped.append(f"{actual.id}: {why}")
        else:
            keep.append(backend)
    if not keep:
        too_long = all("tokens exceed" in d for d in dropped)
        raise RequestError(f"no backend of {route} can serve this request: {'; '.join(dropped)}",
                           kind="context_length" if too_long else "invalid_request")
    if len(keep) < len(chain.backends):
        chain = runtime.part(chain, keep)
    return Decision(route, chain, reason, request.model, tuple(dropped))


def _cannot(backend: Backend, request: _Request) -> str | None:
    signals, dialect = request.signals, DIALECTS[backend.dialect]
    if lacking := sorted(signals.needs & backend.lacks):
        return f"lacks {', '.join(lacking)}"
    target = Target(backend.model, backend.max_output, backend.default_max_tokens, backend.context)
    if refused := dialect.refuses(request.conversation, request.client, target):
        return f"cannot do {', '.join(refused)}"
    context = backend.context
    if dialect.silent_truncation:
        # It would cut the prompt and say nothing, so it gets only what fits by the cautious estimate.
        sure, context = signals.input_tokens * CAUTION // 100, context or UNTOLD_CONTEXT
        if sure > context:
            return f"up to {sure} tokens exceed its context of {context}, and it would cut them silently"
    if context is not None and signals.input_tokens > context:
        return f"about {signals.input_tokens} tokens exceed its context of {context}"
    return None
