"""What OpenAI's own models take of a translated request."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.dialects import DIALECTS
from extproc.dialects.base import Notes
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas._codec import encode_request
from extproc.schemas.base import Target

USER: dict[str, Any] = {"role": "user", "content": "hi"}


def adapt(model: str, **fields: Any) -> tuple[dict[str, Any], Notes]:
    """The fields of a request after adapting, without model and messages when those stayed as they were."""
    notes = Notes()
    given: dict[str, Any] = {"messages": [USER], **fields}
    DIALECTS["openai"].adapt(given, "openai", Target(model), notes)
    return {name: value for name, value in given.items() if (name, value) != ("messages", [USER])}, notes


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5.6-sol", "gpt-6-luna", "o1", "o3-mini", "o4-mini", "ft:gpt-5-mini:x"])
def test_reasoning_models_refuse_sampling(model: str) -> None:
    """Reasoning models get no sampling parameters, each named; the limit and the seed stay."""
    got, notes = adapt(model, max_completion_tokens=9, seed=1, temperature=0.5, top_p=0.9, presence_penalty=1,
                       frequency_penalty=1, logprobs=True, top_logprobs=2, logit_bias={"5": 1}, verbosity="low")
    assert got == {"max_completion_tokens": 9, "seed": 1, "verbosity": "low"}
    assert sorted(notes.dropped) == ["frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "temperature",
                                     "top_logprobs", "top_p"]


def test_defaults_go_without_a_word() -> None:
    """A setting that only says the default is removed where it is refused, and is no loss to name."""
    assert adapt("gpt-5", temperature=1, top_p=1.0, presence_penalty=0) == ({}, Notes())


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "chatgpt-4o-latest", "ft:gpt-4o:team::id", "my-alias"])
def test_older_models_keep_sampling(model: str) -> None:
    """Models that do not reason keep sampling parameters and the newer name of the limit."""
    given = {"max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9, "logit_bias": {"5": 1}}
    assert adapt(model, **given) == (given, Notes())


@pytest.mark.parametrize(("model", "given", "sent"), [
    ("gpt-5", "none", "minimal"), ("gpt-5-mini", "minimal", "minimal"), ("gpt-5", "xhigh", "high"),
    ("gpt-5.1", "none", "none"), ("gpt-5.1", "minimal", "low"), ("gpt-5.1", "max", "high"),
    ("gpt-5.2", "xhigh", "xhigh"), ("gpt-5.5", "max", "xhigh"), ("gpt-5.6", "max", "max"), ("gpt-6-sol", "max", "max"),
    ("o3", "none", "low"), ("o4-mini", "max", "high"), ("o3", "medium", "medium"),
])
def test_effort_levels(model: str, given: str, sent: str) -> None:
    """An effort that the model lacks becomes its nearest one, and that is said."""
    got, notes = adapt(model, reasoning_effort=given)
    assert got == {"reasoning_effort": sent}
    assert notes == Notes(emulated=["effort"] if given != sent else [])


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-3.5-turbo", "chatgpt-4o-latest"])
def test_older_models_have_no_effort_and_no_verbosity(model: str) -> None:
    """Models that do not reason refuse both fields."""
    assert adapt(model, reasoning_effort="high", verbosity="low") == ({}, Notes(dropped=["verbosity", "effort"]))


def test_reasoning_of_earlier_turns_is_dropped() -> None:
    """OpenAI takes no reasoning_content; a turn that held nothing else goes with it."""
    got, notes = adapt("gpt-5", messages=[
        USER, {"role": "assistant", "content": "", "reasoning_content": "hm"},
        {"role": "assistant", "content": "a", "reasoning_content": "hm"}, USER])
    assert got["messages"] == [USER, {"role": "assistant", "content": "a"}, USER]
    assert notes == Notes(dropped=["thinking", "thinking"])


@pytest.mark.parametrize(("model", "stop", "kept"), [
    ("gpt-4o", ["a", "b", "c", "d", "e"], ["a", "b", "c", "d"]), ("gpt-4o", ["a"], ["a"]), ("gpt-4o", "a", "a"),
    ("o3", ["a"], None), ("o4-mini-2025-04-16", "a", None), ("o1", ["a"], ["a"]),
])
def test_stop(model: str, stop: Any, kept: Any) -> None:
    """At most four stop strings, and none for o3 and o4-mini."""
    got, notes = adapt(model, stop=stop)
    assert got.get("stop") == kept
    assert notes.dropped == ([] if kept == stop else ["stop"])


@pytest.mark.parametrize(("field", "value", "sent"), [
    ("top_k", 5, None), ("min_p", 0.1, None), ("repetition_penalty", 1.1, None),
    ("user", "u" * 64, "u" * 64), ("user", "u" * 65, None),
    ("service_tier", "standard_only", "default"), ("service_tier", "flex", "flex"), ("service_tier", "odd", None),
    ("prompt_cache_key", "k", "k"), ("safety_identifier", "s", "s"), ("store", True, True),
    ("metadata", {"a": "b"}, {"a": "b"}), ("parallel_tool_calls", False, False), ("n", 2, 2),
])
def test_single_settings(field: str, value: Any, sent: Any) -> None:
    """Settings of other servers are dropped by name, OpenAI's own stay, Anthropic's name of a tier is translated."""
    got, notes = adapt("gpt-4o", **{field: value})
    assert got == ({} if sent is None else {field: sent})
    assert notes == Notes(dropped=[field] if sent is None else [])


def test_system_messages_and_custom_tools_stay() -> None:
    """OpenAI takes system messages anywhere, the developer role, custom tools and a choice among allowed ones."""
    given: dict[str, Any] = {
        "messages": [{"role": "developer", "content": "d"}, USER, {"role": "system", "content": "s"}],
        "tools": [{"type": "custom", "custom": {"name": "patch"}}],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}
    got, notes = adapt("gpt-5.6", **given)
    assert {"messages": got["messages"], "tools": got["tools"], "tool_choice": got["tool_choice"]} == given
    assert notes == Notes()
    assert DIALECTS["openai"].tools.custom


def test_an_anthropic_request() -> None:
    """A request of Claude Code's kind arrives as OpenAI's newest models take it."""
    body = encode_request({
        "model": "claude-opus-4-8", "max_tokens": 100, "stream": True, "temperature": 0.3, "top_k": 5,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"},
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}]})
    rendered = PROVIDERS["openai"].render_request(CLIENTS["anthropic"].parse_request(body), Target("gpt-5.5"))
    notes = Notes()
    DIALECTS["openai"].adapt(rendered.fields, "openai", Target("gpt-5.5"), notes)
    fields = rendered.fields
    assert [message["role"] for message in fields["messages"]] == ["system", "user", "assistant", "tool"]
    assert "reasoning_content" not in fields["messages"][2]
    assert (fields["max_completion_tokens"], fields["reasoning_effort"]) == (100, "xhigh")
    assert {"temperature", "top_k", "max_tokens", "thinking"}.isdisjoint(fields)
    assert notes == Notes(dropped=["thinking", "top_k", "temperature"], emulated=["effort"])
