"""What a decision rested on, as the ledger keeps it."""

from __future__ import annotations

from typing import Any

from extproc.core.routing.flow import Decision
from extproc.pb import usage_pb2 as pb
from extproc.server.facts import facts_message
from tests.routing_kit import choose, compiled
from tests.stage_kit import RID

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
RULES = """
routing:
  rules:
    - {when: {tokens: "> 1000000"}, route: cloud, reason: never}
    - {when: {}, shadow: local, reason: only looks}
    - {when: {model: asked}, route: local, reason: it is}
"""


def made(decision: Decision | None, shadow_of: str = "") -> pb.Facts:
    """The facts, as they are read back."""
    facts = facts_message(decision, shadow_of)
    assert facts is not None
    return pb.Facts.FromString(facts.SerializeToString())


def test_none() -> None:
    """What left no decision leaves no facts."""
    assert facts_message(None) is None


def test_weighed() -> None:
    """Task, cell, score and chances in millionths, the aim; and the measures of the request."""
    facts = made(choose(text="x" * 4000, tools=TOOLS, max_tokens=70, also={
        "turns": 3, "tool_rounds": 2, "images": 0, "in_tool_loop": True, "agent": "codex", "effort": "high",
        "thinking": True, "structured": True, "warm_tokens": 9, "budget_left": 0.25}))
    assert (facts.task, facts.cell, facts.aim) == ("design", "design.m.t", "balanced")
    assert (facts.score_ppm, facts.p_local_ppm, facts.p_cloud_ppm) == (900_000, 500_000, 900_000)
    assert (facts.turns, facts.tools, facts.tool_rounds, facts.tool_loop, facts.agent, facts.effort) == (
        3, 1, 2, True, "codex", "high")
    assert (facts.thinking, facts.structured, facts.warm_tokens, list(facts.needs)) == (True, True, 9, ["tools"])
    assert (facts.max_tokens, facts.budget_left_ppm, facts.kind, facts.phase, facts.pace, facts.path) == (
        70, 250_000, "chat", "main", "interactive", "plain")
    assert facts.input_tokens > 1000
    assert not facts.HasField("rule")


def test_pinned() -> None:
    """Of a request that nobody weighed there are measures alone; what is not known is not there."""
    facts = made(choose(model="cloud"))
    assert (facts.task, facts.cell, facts.aim) == ("", "", "")
    absent: list[Any] = [name for name in ("score_ppm", "p_local_ppm", "p_cloud_ppm", "max_tokens", "budget_left_ppm")
                         if facts.HasField(name)]
    assert absent == []


def test_rule() -> None:
    """The rule that decided, counted from one; not one that failed, or only shadows."""
    assert made(choose(compiled(RULES), model="asked")).rule == 3
    assert not made(choose(compiled(RULES), model="cloud")).HasField("rule")


def test_shadow() -> None:
    """A copy names the request that it copies."""
    assert made(choose(model="cloud"), RID).shadow_of == RID
    assert made(choose(model="cloud")).shadow_of == ""


def test_session() -> None:
    """The conversation is told by its hash."""
    assert made(choose(model="cloud", also={"session": "0123456789abcdef"})).session == "0123456789abcdef"


def test_no_text() -> None:
    """Neither prompt nor header is among them."""
    secret = "zqx-secret-words"
    facts = made(choose(text=secret, headers={"x-other": secret, "x-extproc-session": secret, "user-agent": secret}))
    assert secret not in str(facts)
