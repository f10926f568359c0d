"""What DeepSeek's API takes: its thinking, and the reasoning it wants back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.dialects import DIALECTS
from extproc.dialects.base import Notes
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas._codec import encode_request
from extproc.schemas.base import Target

USER: dict[str, Any] = {"role": "user", "content": "hi"}
SAID: dict[str, Any] = {"role": "assistant", "content": "a"}
CALLING: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call_00_x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "call_00_x", "content": "r"}
F: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}
OFF = {"type": "disabled"}


def adapt(model: str = "deepseek-flash", **fields: Any) -> tuple[dict[str, Any], Notes]:
    """The fields of a request after adapting; the messages only when they changed."""
    notes = Notes()
    given: dict[str, Any] = json.loads(json.dumps({"messages": [USER], **fields}))
    DIALECTS["deepseek"].adapt(given, "openai", Target(model), notes)
    return {name: value for name, value in given.items() if (name, value) != ("messages", [USER])}, notes


@pytest.mark.parametrize(("given", "sent"), [
    ("minimal", "low"), ("low", "low"), ("medium", "high"), ("high", "high"), ("xhigh", "high"), ("max", "max"),
])
def test_efforts(given: str, sent: str) -> None:
    """Efforts become the three levels that DeepSeek has, as its own table maps them."""
    assert adapt(reasoning_effort=given) == (
        {"reasoning_effort": sent}, Notes(emulated=[] if given == sent else ["effort"]))


@pytest.mark.parametrize(("given", "sent", "notes"), [
    ({}, {}, Notes()),
    ({"reasoning_effort": "none"}, {"thinking": OFF}, Notes()),
    ({"thinking": OFF}, {"thinking": OFF}, Notes()),
    ({"thinking": OFF, "reasoning_effort": "high"}, {"thinking": OFF}, Notes()),
    ({"thinking": {"type": "adaptive"}}, {"thinking": {"type": "enabled"}}, Notes()),
    ({"thinking": {"type": "enabled", "budget_tokens": 9}}, {"thinking": {"type": "enabled"}}, Notes()),
    ({"reasoning_effort": "odd"}, {}, Notes(dropped=["effort"])),
])
def test_the_switch(given: dict[str, Any], sent: dict[str, Any], notes: Notes) -> None:
    """Thinking is on unless the effort is none or thinking is disabled; other providers' modes mean on."""
    assert adapt(**given) == (sent, notes)


def test_sampling_while_it_thinks() -> None:
    """While it thinks DeepSeek ignores sampling, so that is dropped by name; with thinking off it is sent."""
    sampling = {"temperature": 0.2, "top_p": 0.5, "presence_penalty": 1, "frequency_penalty": 1}
    assert adapt(**sampling) == ({}, Notes(dropped=["temperature", "top_p", "frequency_penalty", "presence_penalty"]))
    assert adapt(**sampling, reasoning_effort="none") == ({**sampling, "thinking": OFF}, Notes())


@pytest.mark.parametrize(("messages", "tools", "thoughts"), [
    ([USER, {**CALLING, "reasoning_content": "hm"}, RESULT], [F], ["hm"]),
    ([USER, CALLING, RESULT], [F], [""]),
    ([USER, CALLING, RESULT], None, [""]),
    ([USER, {**CALLING, "reasoning_content": None}, RESULT], [F], [""]),
    ([USER, SAID, USER, {**CALLING, "reasoning_content": "hm"}, RESULT], [F], ["", "hm"]),
    ([USER, SAID, USER], [F], [""]),
    ([USER, SAID, USER], None, [None]),
    ([USER, {**SAID, "reasoning": "hm"}, USER], None, ["hm"]),
])
def test_reasoning_is_given_back(messages: list[Any], tools: Any, thoughts: list[Any]) -> None:
    """With tools in play every assistant turn has its reasoning, be it empty; else it may be missing."""
    got, notes = adapt(messages=messages, **({"tools": tools} if tools else {}))
    turns = [m for m in got.get("messages", messages) if m["role"] == "assistant"]
    assert [turn.get("reasoning_content") for turn in turns] == thoughts
    assert notes == Notes()


def test_no_reasoning_goes_back_without_thinking() -> None:
    """With thinking off the history is that of a model that never thought."""
    got, _ = adapt(messages=[USER, {**CALLING, "reasoning_content": "hm"}, RESULT], tools=[F], reasoning_effort="none")
    assert got["messages"][1] == CALLING


@pytest.mark.parametrize(("choice", "sent", "notes"), [
    ("auto", {"tool_choice": "auto"}, Notes()),
    ("none", {"tool_choice": "none"}, Notes()),
    ("required", {"tool_choice": "required", "thinking": OFF}, Notes(dropped=["thinking"])),
    (NAMED, {"tool_choice": NAMED, "thinking": OFF}, Notes(dropped=["thinking"])),
])
def test_a_forced_call_ends_thinking(choice: Any, sent: dict[str, Any], notes: Notes) -> None:
    """Thinking refuses a forced call: the call is kept and thinking dropped, by name."""
    assert adapt(tools=[F], tool_choice=choice) == ({"tools": [F], **sent}, notes)


def test_a_forced_call_without_thinking() -> None:
    """With thinking off a forced call is no conflict."""
    assert adapt(tools=[F], tool_choice="required", reasoning_effort="none")[1] == Notes()


@pytest.mark.parametrize(("messages", "first"), [
    ([USER], {"role": "system", "content": "TOLD"}),
    ([{"role": "system", "content": "s"}, USER], {"role": "system", "content": "s\n\nTOLD"}),
    ([{"role": "developer", "content": "d"}, USER], {"role": "system", "content": "d\n\nTOLD"}),
])
def test_a_schema_is_told(messages: list[Any], first: dict[str, Any]) -> None:
    """DeepSeek promises JSON but no schema: that is told in the system message."""
    wanted = {"type": "json_schema", "json_schema": {"name": "r", "schema": {"type": "object"}}}
    got, notes = adapt(messages=messages, response_format=wanted)
    told = ('Answer with one JSON object and nothing else. It must follow this JSON schema:\n{"type":"object"}')
    assert got == {"response_format": {"type": "json_object"},
                   "messages": [{**first, "content": first["content"].replace("TOLD", told)}, USER]}
    assert notes == Notes(emulated=["json_schema"])


@pytest.mark.parametrize("name", ["n", "logit_bias", "seed", "top_k", "min_p", "metadata", "store", "service_tier",
                                  "prompt_cache_key", "verbosity", "safety_identifier", "user"])
def test_unknown_settings(name: str) -> None:
    """Settings that DeepSeek's API does not have are dropped by name."""
    assert adapt(**{name: 7}) == ({}, Notes(dropped=[name]))


@pytest.mark.parametrize(("given", "sent", "notes"), [
    ({"max_completion_tokens": 5}, {"max_tokens": 5}, Notes()),
    ({"stop": list("abcdefghijklmnopq")}, {"stop": list("abcdefghijklmnop")}, Notes(dropped=["stop"])),
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, Notes()),
    ({"tools": [{"type": "custom", "custom": {"name": "p"}}]}, {}, Notes(dropped=["tool:p"])),
    ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}, Notes()),
])
def test_single_settings(given: dict[str, Any], sent: dict[str, Any], notes: Notes) -> None:
    """The limit by its older name, 16 stop strings, usage in streams, functions only."""
    assert adapt(**given) == (sent, notes)


def test_documents_become_placeholders() -> None:
    """Files are no input of DeepSeek; images of its seeing models stay."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    got, notes = adapt(messages=[{"role": "user", "content": [image, {"type": "file", "file": {"file_data": "x"}}]}])
    assert got["messages"][0]["content"] == [image, {"type": "text", "text": "[document]"}]
    assert notes == Notes(dropped=["documents"])


def test_what_deepseek_took_stays() -> None:
    """A recorded request, one that DeepSeek answered, is left as it was (its turns have their reasoning)."""
    # From pydantic-ai's cassette test_deepseek_deferred_capability_with_thinking.yaml, shortened.
    given = {
        "messages": [
            {"role": "system", "content": "You're a dice game."}, {"role": "system", "content": "Deferred: DICE_ROLL"},
            {"role": "user", "content": "My guess is 4"},
            {"role": "assistant", "content": "Let me load it!", "reasoning_content": "First load.", "tool_calls": [
                {"id": "call_00_sX", "type": "function", "function": {"name": "load", "arguments": '{"id": "DICE_ROLL"}'}}]},
            {"role": "tool", "tool_call_id": "call_00_sX", "content": "{}"},
            {"role": "assistant", "content": None, "reasoning_content": "", "tool_calls": [
                {"id": "auto_load_e", "type": "function", "function": {"name": "search", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "auto_load_e", "content": "{}"}],
        "stream": False, "tool_choice": "auto", "tools": [F]}
    assert adapt(**given) == (given, Notes())


def test_a_thinking_anthropic_history() -> None:
    """An Anthropic history that goes to DeepSeek gives its thinking as reasoning, without signatures."""
    body = encode_request({
        "model": "claude-opus-4-8", "max_tokens": 100, "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_2", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_2", "content": "r"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}]})
    rendered = PROVIDERS["openai"].render_request(CLIENTS["anthropic"].parse_request(body), Target("deepseek-v4-pro"))
    notes = Notes()
    DIALECTS["deepseek"].adapt(rendered.fields, "openai", Target("deepseek-v4-pro"), notes)
    fields = rendered.fields
    assert [m.get("reasoning_content") for m in fields["messages"]] == [None, "hm", None, "", None]
    assert (fields["reasoning_effort"], fields["max_tokens"]) == ("high", 100)
    assert "sig" not in encode_request(fields).decode()
    assert notes == Notes(emulated=["effort"])
