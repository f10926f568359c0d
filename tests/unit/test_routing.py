"""The decision flow, step by step, each with its reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.core.routing import signals
from extproc.core.routing.complexity import Complexity, score
from extproc.core.routing.explanation import explain
from extproc.core.routing.flow import Decision, decide
from extproc.core.routing.view import View
from extproc.runtime import Runtime
from extproc.schemas import SCHEMAS
from tests.stage_kit import ASK, CONFIG, runtime

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]}
THRESHOLD = """
routing:
  smart: {threshold: 0.5}
"""
RULES = """
routing:
  smart: {latency_critical: cloud, cost_sensitive: local, complex: cloud, simple: local, threshold: 0.5}
  rules:
    - {when: {header: {X-Team-Mode: secret}}, route: local, reason: never leaves}
    - {when: {tools: true, stream: true}, route: gpt/g, reason: tools stream well there}
    - {when: {tokens_above: 900}, route: cloud, reason: long}
    - {when: {model: special}, route: smart, reason: let the flow decide}
"""


def choose(rt: Runtime | None = None, path: signals.PathRoute = "plain", headers: dict[str, str] | None = None,
           value: float = 0.0, allowed: list[str] | None = None, key: str = "", team: str = "default",
           **fields: Any) -> Decision:
    raw = msgspec.json.encode({**ASK, **fields})
    conversation = SCHEMAS["openai"].parse_request(raw)
    facts = signals.extract(conversation, len(raw), path, headers or {}, key, team)
    rt = rt or runtime(THRESHOLD)
    view = View(rt.config.routing, rate=lambda _: Complexity(value, "test"))
    return decide(rt, facts, conversation, view, allowed=allowed)


def ids(decision: Decision) -> list[str]:
    return [backend.id for backend in decision.chain.backends]


@pytest.mark.parametrize(("model", "route"), [
    ("cloud", "cloud"), ("local", "local"), ("exact", "local"), ("claude-opus", "cloud"), ("gpt/g", "gpt/g"),
    ("gpt/not-listed", "gpt/not-listed"), ("g", "gpt/g"), ("q", "qwen/q"),
])
def test_pinned_by_model(model: str, route: str) -> None:
    """A chain, an alias, a pattern, BACKEND/MODEL, or a model of a chain pins the request."""
    decision = choose(model=model)
    assert decision.route == route
    assert decision.reason == f"pinned by model {model}"


def test_a_model_that_no_chain_lists() -> None:
    """BACKEND/MODEL reaches any model of a known backend, by that backend alone."""
    decision = choose(model="gpt/not-listed")
    assert ids(decision) == ["gpt/*"]
    assert decision.model == "not-listed"


@pytest.mark.parametrize(("headers", "route", "reason"), [
    ({"x-extproc-route": "local"}, "local", "pinned by header"),
    ({"x-extproc-route": "claude/c"}, "claude/c", "pinned by header"),
    ({"x-extproc-route": "smart"}, "local", "simple (score 0.0 < 0.5): test"),
])
def test_pinned_by_header(headers: dict[str, str], route: str, reason: str) -> None:
    """The route header wins over the model."""
    decision = choose(headers=headers, model="cloud")
    assert decision.route == route
    assert decision.reason.startswith(reason)


@pytest.mark.parametrize("route", ["", "nope", "gpt", "gpt/", "/g"])
def test_unknown_route_header(route: str) -> None:
    """A route header that names nothing is the client's error, with the known names."""
    with pytest.raises(RequestError, match="known: cloud, local"):
        choose(headers={"x-extproc-route": route})


def test_pinned_by_path() -> None:
    """/v1/local wins over the model; /v1/smart asks the flow."""
    assert choose(path="local", model="cloud").route == "local"
    assert choose(path="smart", model="cloud").route == "local"


@pytest.mark.parametrize(("headers", "value", "route", "reason"), [
    ({"x-extproc-latency": "realtime"}, 0.0, "cloud", "latency critical: header x-extproc-latency"),
    ({"x-extproc-latency": "realtime", "x-extproc-cost": "batch"}, 0.0, "cloud", "latency critical: header"),
    ({"x-extproc-cost": "batch"}, 1.0, "local", "cost sensitive: header x-extproc-cost"),
    ({"user-agent": "GitHub-Actions/1"}, 1.0, "local", "cost sensitive: a CI client"),
    ({}, 0.5, "cloud", "complex (score 0.5 >= 0.5): test"),
    ({}, 0.49, "local", "simple (score 0.49 < 0.5): test"),
])
@pytest.mark.parametrize("model", ["auto", "smart"])
def test_smart_flow(headers: dict[str, str], value: float, route: str, reason: str, model: str) -> None:
    """Latency, then cost, then complexity; the reason says which."""
    decision = choose(headers=headers, value=value, model=model)
    assert decision.route == route
    assert decision.reason.startswith(reason)


@pytest.mark.parametrize(("headers", "fields", "route", "reason"), [
    ({"x-team-mode": "secret"}, {}, "local", "rule: never leaves"),
    ({}, {"tools": [TOOL], "stream": True}, "gpt/g", "rule: tools stream well there"),
    ({}, {"messages": [{"role": "user", "content": "x" * 4000}]}, "cloud", "rule: long"),
    ({}, {"model": "special"}, "local", "simple"),
    ({}, {"tools": [TOOL]}, "local", "simple"),
])
def test_rules(headers: dict[str, str], fields: dict[str, Any], route: str, reason: str) -> None:
    """The first rule whose conditions all hold wins, before the smart flow."""
    decision = choose(runtime(RULES), headers=headers, **fields)
    assert decision.route == route
    assert decision.reason.startswith(reason)


def test_rules_do_not_beat_a_pin() -> None:
    """A header pin comes before the rules."""
    assert choose(runtime(RULES), headers={"x-extproc-route": "cloud", "x-team-mode": "secret"}).route == "cloud"


def test_capabilities_prune() -> None:
    """A backend that lacks what the request needs is left out, and the cluster is that of the rest."""
    rt = runtime()
    decision = choose(rt, model="cloud", messages=[IMAGE])
    assert ids(decision) == ["claude/c", "gpt/g"]
    assert decision.dropped == ("qwen/q: lacks images",)
    assert decision.chain.cluster in {chain.cluster for chain in rt.variants}
    assert decision.chain.cluster != rt.chains["cloud"].cluster


def test_context_prunes() -> None:
    """A backend whose context is too small is left out; none left is context_length."""
    long = [{"role": "user", "content": "x" * 8000}]
    assert ids(choose(model="cloud", messages=long)) == ["claude/c", "gpt/g"]
    with pytest.raises(RequestError) as caught:
        choose(model="local", messages=long)
    assert caught.value.problem.kind == "context_length"


def test_no_backend_left() -> None:
    """When none can serve, the client hears each reason."""
    with pytest.raises(RequestError, match="no backend of local can serve this request: qwen/q: lacks images"):
        choose(model="local", messages=[IMAGE])


def test_unknown_model() -> None:
    """An unknown model is not found, and the text names what there is."""
    with pytest.raises(RequestError, match="unknown model nope; try one of: auto, ") as caught:
        choose(model="nope")
    assert caught.value.problem.http_status == 404


@pytest.mark.parametrize("how", [{"model": "smart"}, {"path": "smart"}, {"headers": {"x-extproc-route": "smart"}}])
def test_smart_without_its_chains(how: dict[str, Any]) -> None:
    """A file without the smart flow's chains refuses smart requests in words."""
    base = CONFIG.replace("models: {auto: smart, ", "models: {auto: cloud, ").replace("  local: [qwen/q]", "  own: [qwen/q]")
    with pytest.raises(RequestError, match="smart routing is not configured: there is no chain local"):
        choose(runtime(base=base.replace("exact: local", "exact: own")), **how)


def test_no_local_chain() -> None:
    """/v1/local without a chain of that name is not found."""
    base = CONFIG.replace("models: {auto: smart, ", "models: {auto: cloud, ").replace("  local: [qwen/q]\n", "")
    with pytest.raises(RequestError, match="no chain named local"):
        choose(runtime(base=base.replace("exact: local", "exact: cloud")), path="local")


def test_allowed_routes() -> None:
    """A key's routes are held against the decision, whatever led to it."""
    assert choose(model="auto", allowed=["local"]).route == "local"
    for how in ({"model": "cloud"}, {"model": "gpt/g"}, {"headers": {"x-extproc-route": "cloud"}}):
        with pytest.raises(RequestError, match="this key may not use"):
            choose(allowed=["local"], **how)  # type: ignore[arg-type]


def test_every_part_of_a_chain_has_a_cluster() -> None:
    """Whatever pruning leaves, Envoy has a cluster for it."""
    rt = runtime()
    backends = rt.chains["cloud"].backends
    for mask in range(1, 1 << len(backends)):
        keep = [b for i, b in enumerate(backends) if mask >> i & 1]
        assert rt.part(rt.chains["cloud"], keep).backends == tuple(keep)


def test_explain() -> None:
    """`extproc route` tells the route, the reason, the chain and the facts."""
    ask = "design a distributed lock service and prove it safe"
    raw = msgspec.json.encode({**ASK, "messages": [{"role": "user", "content": ask}]})
    text = explain(runtime(), "/v1/chat/completions", {}, raw)
    assert "route       cloud" in text
    assert "complex (" in text
    assert "claude/c > gpt/g > qwen/q" in text
    with pytest.raises(RequestError, match="is no path of a request"):
        explain(runtime(), "/nope", {}, raw)


def test_complexity_orders_asks() -> None:
    """A hard ask scores above an easy one, within 0 and 1."""
    easy, hard = rated("fix this typo"), rated("design a distributed algorithm and prove it")
    assert 0 <= easy < 0.5 <= hard <= 1


def rated(text: str) -> float:
    raw, conversation = asked(text)
    return score(signals.extract(conversation, len(raw), "plain", {}, "", "")).score


def asked(text: str) -> tuple[bytes, Conversation]:
    raw = msgspec.json.encode({**ASK, "messages": [{"role": "user", "content": text}]})
    return raw, SCHEMAS["openai"].parse_request(raw)


def test_a_share_is_held() -> None:
    """With a share the requests that gain most go to the stronger chain, and no more than their share of all."""
    rt = runtime("routing: {smart: {aim: {cloud_share: 20%}}}")
    view, routes = View(rt.config.routing), list[tuple[str, str]]()
    for number in range(400):
        ask = ("design a distributed system for", "rename the variable", "explain the function", "write a test for",
               "hello, what is")[number % 5] + f" thing {number % 37}"
        raw, conversation = asked(ask)
        decision = decide(rt, signals.extract(conversation, len(raw), "plain", {}, "", ""), conversation, view)
        routes.append((decision.route, ask))
        assert "the 20% that gain most" in decision.reason
    assert sum(route == "cloud" for route, _ in routes) / len(routes) == pytest.approx(0.2, abs=0.02)
    assert sum(ask.startswith("design") for route, ask in routes if route == "cloud") > 60


def test_a_token_count_is_not_part_of_the_share() -> None:
    """Counting tokens says nothing of the work: it goes to the simple chain, and the share does not see it."""
    rt = runtime("routing: {smart: {aim: {cloud_share: 100%}}}")
    view = View(rt.config.routing)
    raw, conversation = asked("design a distributed algorithm and prove it")
    facts = signals.extract(conversation, len(raw), "plain", {}, "", "")
    count = decide(rt, msgspec.structs.replace(facts, task="count"), conversation, view)
    assert (count.route, count.valued) == ("local", None)
    assert decide(rt, facts, conversation, view).route == "cloud"
