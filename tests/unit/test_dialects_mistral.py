"""What Mistral's API takes; it answers 422 to everything it does not know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import toolbox
from extproc.dialects import DIALECTS
from extproc.dialects.base import Notes
from extproc.dialects.mistral import BRIDGE
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas._codec import encode_request
from extproc.schemas.base import Target

USER: dict[str, Any] = {"role": "user", "content": "hi"}
SAID: dict[str, Any] = {"role": "assistant", "content": "a"}
F: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
G: dict[str, Any] = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}


def calling(identifier: str, name: str = "f") -> dict[str, Any]:
    call = {"id": identifier, "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def result(identifier: str, **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identifier, "content": "r", **fields}


def adapt(model: str = "mistral-large-latest", **fields: Any) -> tuple[dict[str, Any], Notes]:
    """The fields of a request after adapting; the messages only when they changed."""
    notes = Notes()
    given: dict[str, Any] = json.loads(json.dumps({"messages": [USER], **fields}))
    DIALECTS["mistral"].adapt(given, "openai", Target(model), notes)
    return {name: value for name, value in given.items() if (name, value) != ("messages", [USER])}, notes


@pytest.mark.parametrize(("given", "sent", "dropped"), [
    ({"seed": 1}, {"random_seed": 1}, []),
    ({"seed": 1, "random_seed": 2}, {"random_seed": 2}, []),
    ({"max_completion_tokens": 5}, {"max_tokens": 5}, []),
    ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}, []),
    ({"logit_bias": {"5": 1}}, {}, ["logit_bias"]), ({"user": "u"}, {}, ["user"]), ({"store": True}, {}, ["store"]),
    ({"min_p": 0.1}, {}, ["min_p"]), ({"verbosity": "low"}, {}, ["verbosity"]),
    ({"chat_template_kwargs": {"x": 1}}, {}, ["chat_template_kwargs"]),
    ({"n": 2, "top_k": 5, "safe_prompt": True, "prompt_cache_key": "k", "metadata": {"a": "b"}, "frequency_penalty": 0.2,
      "parallel_tool_calls": False, "guardrails": [], "prompt_mode": "reasoning"},
     {"n": 2, "top_k": 5, "safe_prompt": True, "prompt_cache_key": "k", "metadata": {"a": "b"}, "frequency_penalty": 0.2,
      "parallel_tool_calls": False, "guardrails": [], "prompt_mode": "reasoning"}, []),
    ({"service_tier": "default"}, {"service_tier": "standard_only"}, []), ({"service_tier": "auto"}, {"service_tier": "auto"}, []),
    ({"service_tier": "flex"}, {}, ["service_tier"]),
])
def test_settings(given: dict[str, Any], sent: dict[str, Any], dropped: list[str]) -> None:
    """Mistral's names, and nothing that its request does not have; lost usage reporting is no loss, it comes anyway."""
    assert adapt(**given) == (sent, Notes(dropped=dropped))


@pytest.mark.parametrize(("model", "given", "sent", "notes"), [
    ("mistral-small-latest", "none", "none", Notes()), ("mistral-small-latest", "high", "high", Notes()),
    ("mistral-medium-3-5", "low", "high", Notes(emulated=["effort"])),
    ("mistral-large-4", "max", "high", Notes(emulated=["effort"])),
    ("devstral-medium-latest", "minimal", "none", Notes(emulated=["effort"])),
    ("mistral-large-latest", "high", None, Notes(dropped=["effort"])),
    ("codestral-latest", "none", None, Notes(dropped=["effort"])),
    ("magistral-medium-latest", "high", None, Notes(dropped=["effort"])),
])
def test_effort(model: str, given: str, sent: str | None, notes: Notes) -> None:
    """Some models can be told to think or not; the others take no effort."""
    assert adapt(model, reasoning_effort=given) == ({} if sent is None else {"reasoning_effort": sent}, notes)


@pytest.mark.parametrize(("choice", "sent"), [("required", "any"), ("auto", "auto"), ("none", "none"), (NAMED, NAMED)])
def test_tool_choice(choice: Any, sent: Any) -> None:
    """`required` is called `any`; the other choices are OpenAI's."""
    assert adapt(tools=[F, G], tool_choice=choice) == ({"tools": [F, G], "tool_choice": sent}, Notes())


def test_tools() -> None:
    """Functions only, with the parameters that Mistral demands; a choice among allowed tools is a list of those."""
    bare = {"type": "function", "function": {"name": "f"}}
    custom = {"type": "custom", "custom": {"name": "patch"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
    got, notes = adapt(tools=[bare, G, custom], tool_choice=allowed)
    assert got == {"tools": [{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {}}}}], "tool_choice": "any"}
    assert notes == Notes(dropped=["tool:patch"], emulated=["tool_choice.allowed_tools"])


@pytest.mark.parametrize("identifier", ["call_abc", "toolu_01ABC", "x", "rHU0eZiM-"])
def test_call_ids_have_nine_letters(identifier: str) -> None:
    """Ids of another form are mapped, the same for a call and its result, and always to the same."""
    got, notes = adapt(messages=[USER, calling(identifier), result(identifier)])
    call, answer = got["messages"][1]["tool_calls"][0], got["messages"][2]
    assert call["id"] == answer["tool_call_id"] == toolbox.fit_id(identifier, DIALECTS["mistral"].tools)
    assert len(call["id"]) == 9
    assert call["id"].isalnum()
    assert answer["name"] == "f"
    assert notes == Notes()


def test_its_own_ids_stay() -> None:
    """An id that Mistral made goes back to it as it is."""
    got, _ = adapt(messages=[USER, calling("rHU0eZiMa"), result("rHU0eZiMa", name="mine")])
    assert got["messages"][1]["tool_calls"][0]["id"] == got["messages"][2]["tool_call_id"] == "rHU0eZiMa"
    assert got["messages"][2]["name"] == "mine"


@pytest.mark.parametrize(("model", "content", "sent", "dropped"), [
    ("magistral-small-latest", "a", [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                                     {"type": "text", "text": "a"}], []),
    ("mistral-small-latest", "", [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], []),
    ("mistral-large-latest", "a", "a", ["thinking"]),
])
def test_reasoning(model: str, content: str, sent: Any, dropped: list[str]) -> None:
    """Reasoning is a part of the content for models that reason, and dropped for others."""
    turn = {"role": "assistant", "content": content, "reasoning_content": "hm"}
    got, notes = adapt(model, messages=[USER, turn, USER])
    assert got["messages"][1] == {"role": "assistant", "content": sent}
    assert notes == Notes(dropped=dropped)


@pytest.mark.parametrize(("given", "sent", "emulated"), [
    ([USER, SAID], [USER, {**SAID, "prefix": True}], []),
    ([USER, SAID, USER], [USER, SAID, USER], []),
    ([USER, calling("aaaaaaaaa"), result("aaaaaaaaa", name="f"), USER],
     [USER, calling("aaaaaaaaa"), result("aaaaaaaaa", name="f"), {"role": "assistant", "content": BRIDGE}, USER],
     ["turn_order"]),
    ([USER, calling("aaaaaaaaa"), result("aaaaaaaaa", name="f"), {"role": "system", "content": "s"}],
     [USER, calling("aaaaaaaaa"), result("aaaaaaaaa", name="f"), {"role": "assistant", "content": BRIDGE},
      {"role": "user", "content": "<system-reminder>\ns\n</system-reminder>"}], ["system", "turn_order"]),
    ([{"role": "developer", "content": "d"}, USER], [{"role": "system", "content": "d"}, USER], []),
    ([USER, {"role": "assistant", "content": ""}, USER], [USER, USER], []),
    ([USER, {"role": "assistant", "content": None, "tool_calls": []}, USER], [USER, USER], []),
])
def test_order(given: list[Any], sent: list[Any], emulated: list[str]) -> None:
    """A turn of the assistant between a tool's result and the user, an answer to be continued marked so, one system
    message, no empty turn."""
    got, notes = adapt(messages=given)
    assert got.get("messages", [USER]) == sent
    assert notes == Notes(emulated=emulated)


def test_only_known_message_fields() -> None:
    """Fields of messages that Mistral does not have are removed, by name where they said something."""
    got, notes = adapt(messages=[
        {**USER, "name": "ann"}, {**SAID, "refusal": None, "annotations": [], "audio": {"id": "x"}}, USER])
    assert got["messages"] == [USER, SAID, USER]
    assert notes == Notes(dropped=["messages.name", "messages.annotations", "messages.audio"])


@pytest.mark.parametrize(("part", "sent", "dropped"), [
    ({"type": "image_url", "image_url": {"url": "https://x", "detail": "original"}},
     {"type": "image_url", "image_url": {"url": "https://x"}}, []),
    ({"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}},
     {"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}}, []),
    ({"type": "image_url", "image_url": "https://x"}, {"type": "image_url", "image_url": "https://x"}, []),
    ({"type": "document_url", "document_url": "https://x"}, {"type": "document_url", "document_url": "https://x"}, []),
    ({"type": "file", "file_id": "x"}, {"type": "file", "file_id": "x"}, []),
    ({"type": "file", "file": {"file_data": "data:,"}}, {"type": "text", "text": "[document]"}, ["documents"]),
    ({"type": "video_url", "video_url": {}}, {"type": "text", "text": "[video]"}, ["foreign:video_url"]),
])
def test_parts(part: Any, sent: Any, dropped: list[str]) -> None:
    """Mistral's own parts stay; OpenAI's files and other kinds become placeholders."""
    got, notes = adapt(messages=[{"role": "user", "content": [part]}])
    assert got["messages"] == [{"role": "user", "content": [sent]}]
    assert notes == Notes(dropped=dropped)


def test_what_mistral_took_stays() -> None:
    """A recorded request, one that Mistral answered, keeps all that it said."""
    # From pydantic-ai's cassettes test_image_as_binary_content_tool_response.yaml and test_mistral_forwards_penalties.yaml.
    call = {"function": {"name": "get_image", "arguments": "{}"}, "id": "FI5qQGzDE", "index": 0, "type": "function"}
    image = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/"}}
    given = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What fruit?"}]},
            {"role": "assistant", "content": [], "prefix": False, "tool_calls": [call]},
            {"role": "tool", "content": "See file bd38f5", "tool_call_id": "FI5qQGzDE", "name": "get_image"},
            {"role": "assistant", "content": [{"type": "text", "text": "OK"}], "prefix": False},
            {"role": "user", "content": [{"type": "text", "text": "This is file bd38f5:"}, image]}],
        "n": 1, "stream": False, "tool_choice": "auto", "top_p": 1.0, "tools": [F],
        "frequency_penalty": 0.25, "presence_penalty": 0.5}
    assert adapt("pixtral-12b-latest", **given) == (given, Notes())


def test_an_anthropic_tool_loop() -> None:
    """A tool loop of an Anthropic client, with text after a result, arrives in Mistral's order and with its ids."""
    body = encode_request({
        "model": "claude-opus-4-8", "max_tokens": 100, "system": "s",
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"},
                                         {"type": "text", "text": "go on"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}})
    dialect, target, notes = DIALECTS["mistral"], Target("mistral-large-latest"), Notes()
    conversation, _ = toolbox.fit(CLIENTS["anthropic"].parse_request(body), dialect.tools)
    fields = PROVIDERS["openai"].render_request(conversation, target).fields
    dialect.adapt(fields, "openai", target, notes)
    assert [m["role"] for m in fields["messages"]] == ["system", "user", "assistant", "tool", "assistant", "user"]
    identifier = toolbox.fit_id("toolu_1", dialect.tools)
    assert fields["messages"][2]["tool_calls"][0]["id"] == fields["messages"][3]["tool_call_id"] == identifier
    assert (fields["max_tokens"], fields["tool_choice"]) == (100, "any")
    assert notes == Notes(emulated=["turn_order"])
