"""Builders for tests of routing decisions: two chains with prices, a request, what is known of the world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from extproc.config import parse
from extproc.config.learning import LearningConfig
from extproc.core.conversation import Conversation
from extproc.core.pricing import Price, Rate, per_million
from extproc.core.routing import signals
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.endings import Kind, Outcome
from extproc.core.routing.flow import Decision, decide
from extproc.core.routing.sessions import Memory
from extproc.core.routing.signals import Signals
from extproc.core.routing.view import Knowledge, View
from extproc.runtime import Runtime
from extproc.schemas import SCHEMAS
from tests.stage_kit import NOW, RID

LARGE = Price(Rate(per_million(3)), Rate(per_million(15)), Rate(per_million("0.3")), Rate(per_million("3.75")))
"""3 $ and 15 $ a million tokens, a tenth of the input where it is cached."""
HARD = Complexity(0.9, "hard words", "design", 0.5, 0.9)
EASY = Complexity(0.1, "easy words", "chat", 0.9, 0.92)
CONFIG = """
backends:
  big: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: cloud, api_key: k, models: {b: {context: 1000000}}}
  more: {schema: openai, base_url: "http://127.0.0.1:2/v1", location: cloud, api_key: k, models: {m: {context: 1000000}}}
  near: {schema: openai, base_url: "http://127.0.0.1:3/v1", location: local, lacks: [images], models: {n: {context: 8000}}}
  box: {schema: openai, base_url: "http://127.0.0.1:4/v1", location: local, lacks: [images], models: {x: {context: 8000}}}
chains:
  cloud: [big/b, more/m]
  local: [near/n, box/x]
  fast: [more/m]
models: {auto: smart, "claude-*": cloud}
"""


def compiled(extra: str = "", price: Price | None = LARGE, base: str = CONFIG) -> Runtime:
    """The configuration with more YAML behind it; all that is in the cloud has one price, the rest is free."""
    return Runtime(parse(base + extra, "t", Path()), lambda _provider, _model: (price, None))


def asked(path: signals.PathRoute = "plain", headers: dict[str, str] | None = None, text: str = "hello",
          **fields: Any) -> tuple[Signals, Conversation]:
    """The facts of a chat request. `fields`: of its body."""
    raw = msgspec.json.encode({"model": "auto", "messages": [{"role": "user", "content": text}], **fields})
    conversation = SCHEMAS["openai"].parse_request(raw)
    return signals.extract(conversation, len(raw), path, headers or {}, "", "default"), conversation


def seen(rated: Complexity = HARD, knowledge: Knowledge | None = None, runtime: Runtime | None = None,
         explore: float = 0.0) -> View:
    """What routing may know, where every text reads alike."""
    return View((runtime or compiled()).config.routing, knowledge, rate=lambda _: rated, explore=explore)


def choose(runtime: Runtime | None = None, view: View | None = None, rated: Complexity = HARD, *,
           allowed: Sequence[str] | None = None, memory: Memory | None = None, now: int = NOW, rid: str = RID,
           also: dict[str, Any] | None = None, **request: Any) -> Decision:
    """Decide one request. `also`: signals that differ from what the request says."""
    runtime = runtime or compiled()
    facts, conversation = asked(**request)
    facts = msgspec.structs.replace(facts, **(also or {}))
    view = view or seen(rated, runtime=runtime)
    return decide(runtime, facts, conversation, view, now=now, rid=rid, allowed=allowed, memory=memory)


def ids(decision: Decision) -> list[str]:
    """The backends of a decision in the order they are tried."""
    return [backend.id for backend in decision.chain.backends]


def failing(knowledge: Knowledge, backend: str, now: int = NOW, times: int = 5, kind: Kind = "failed",
            **more: Any) -> Knowledge:
    """Let a backend fail so often."""
    for _ in range(times):
        knowledge.health.note(Outcome(backend, backend.partition("/")[0], kind, **more), now)
    return knowledge


def taught() -> Knowledge:
    """Knowledge that learns."""
    return Knowledge(LearningConfig(enabled=True))
