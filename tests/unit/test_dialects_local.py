"""What servers of open models take: any OpenAI-compatible one, vLLM, llama.cpp, and Ollama by both of its routes."""

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
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLING: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "c1", "content": "r"}
F: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
G: dict[str, Any] = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
CUSTOM: dict[str, Any] = {"type": "custom", "custom": {"name": "patch"}}
NAMED = {"type": "function", "function": {"name": "f"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}}
SERVERS = ("compatible", "vllm", "llamacpp", "ollama-openai")


def adapt(dialect: str, model: str = "qwen3", **fields: Any) -> tuple[dict[str, Any], Notes]:
    """The fields of a request after adapting; the messages only when they changed."""
    notes = Notes()
    given: dict[str, Any] = json.loads(json.dumps({"messages": [USER], **fields}))
    DIALECTS[dialect].adapt(given, DIALECTS[dialect].schema, Target(model), notes)
    return {name: value for name, value in given.items() if (name, value) != ("messages", [USER])}, notes


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def reminder(text: str) -> str:
    return f"<system-reminder>\n{text}\n</system-reminder>"


ASSISTANT: dict[str, Any] = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("dialect", [*SERVERS, "ollama"])
@pytest.mark.parametrize(("given", "sent", "told"), [
    ([system("s"), USER], [system("s"), USER], 0),
    ([{"role": "developer", "content": "d"}, USER], [system("d"), USER], 0),
    ([system("s"), {"role": "developer", "content": [{"type": "text", "text": "d"}]}, USER], [system("s\n\nd"), USER], 0),
    ([system(""), USER], [USER], 0),
    ([system("s"), USER, ASSISTANT, system("x")],
     [system("s"), USER, ASSISTANT, {"role": "user", "content": reminder("x")}], 1),
    ([USER, system("x")], [{"role": "user", "content": f"hi\n\n{reminder('x')}"}], 1),
    ([USER, ASSISTANT, system("x"), USER],
     [USER, ASSISTANT, {"role": "user", "content": f"{reminder('x')}\n\nhi"}], 1),
    ([USER, system("x"), system("y"), USER],
     [{"role": "user", "content": f"hi\n\n{reminder('x')}\n\n{reminder('y')}\n\nhi"}], 2),
    ([USER, USER], [USER, USER], 0),
])
def test_one_system_message(dialect: str, given: list[Any], sent: list[Any], told: int) -> None:
    """The system and developer messages at the start become one; a later one becomes a reminder in the user's words,
    and never makes two user messages in a row."""
    got, notes = adapt(dialect, messages=given)
    assert got.get("messages", [USER]) == sent
    assert notes == Notes(emulated=["system"] * told)


def test_a_reminder_beside_an_image() -> None:
    """A reminder joins a user message that is a list of parts as a part, and Ollama's images stay with their turn."""
    shown = {"role": "user", "content": [PNG]}
    got, _ = adapt("vllm", messages=[shown, system("x")])
    assert got["messages"] == [{"role": "user", "content": [PNG, {"type": "text", "text": reminder("x")}]}]
    got, _ = adapt("ollama", messages=[USER, ASSISTANT, system("x"), {"role": "user", "content": "hi", "images": ["aGk="]}])
    assert got["messages"][2] == {"role": "user", "content": f"{reminder('x')}\n\nhi", "images": ["aGk="]}


@pytest.mark.parametrize("dialect", SERVERS)
@pytest.mark.parametrize(("given", "sent"), [
    ({"max_completion_tokens": 5}, {"max_tokens": 5}), ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}), ({"max_completion_tokens": None}, {}),
    ({"seed": 1, "temperature": 0.2, "top_p": 0.5, "stop": ["a"]}, {"seed": 1, "temperature": 0.2, "top_p": 0.5, "stop": ["a"]}),
])
def test_the_limit_has_its_older_name(dialect: str, given: dict[str, Any], sent: dict[str, Any]) -> None:
    """The limit goes as max_tokens, which all of them know; common settings stay."""
    assert adapt(dialect, **given) == (sent, Notes())


@pytest.mark.parametrize("dialect", SERVERS)
def test_settings_of_openais_accounts(dialect: str) -> None:
    """What means something to OpenAI's service only is dropped by name."""
    given = {"store": True, "metadata": {"a": "b"}, "prompt_cache_key": "k", "safety_identifier": "s", "verbosity": "low",
             "service_tier": "flex", "prompt_cache_retention": "24h"}
    got, notes = adapt(dialect, **given)
    assert got == {}
    assert (sorted(notes.dropped), notes.emulated) == (sorted(given), [])


@pytest.mark.parametrize("dialect", SERVERS)
@pytest.mark.parametrize(("given", "sent", "notes"), [
    ({"tools": [F, CUSTOM]}, {"tools": [F]}, Notes(dropped=["tool:patch"])),
    ({"tools": [CUSTOM], "tool_choice": "auto"}, {}, Notes(dropped=["tool:patch"])),
    ({"tools": []}, {}, Notes()),
    ({"tools": [{"type": "web_search"}, F]}, {"tools": [F]}, Notes(dropped=["tool:web_search"])),
])
def test_functions_only(dialect: str, given: dict[str, Any], sent: dict[str, Any], notes: Notes) -> None:
    """Tools that are no functions are dropped by name, and no empty list of tools is sent."""
    assert adapt(dialect, **given) == (sent, notes)


@pytest.mark.parametrize("dialect", ["compatible", "vllm", "llamacpp"])
def test_allowed_tools(dialect: str) -> None:
    """A choice among allowed tools becomes a list of those, with the mode as the choice."""
    assert adapt(dialect, tools=[F, G], tool_choice=ALLOWED) == (
        {"tools": [F], "tool_choice": "required"}, Notes(emulated=["tool_choice.allowed_tools"]))


@pytest.mark.parametrize(("dialect", "choice", "sent", "notes"), [
    ("vllm", NAMED, {"tools": [F, G], "tool_choice": NAMED}, Notes()),
    ("compatible", "required", {"tools": [F, G], "tool_choice": "required"}, Notes()),
    ("llamacpp", NAMED, {"tools": [F], "tool_choice": "required"}, Notes(emulated=["tool_choice"])),
    ("llamacpp", "none", {"tools": [F, G], "tool_choice": "none"}, Notes()),
    ("ollama-openai", NAMED, {"tools": [F]}, Notes(emulated=["tool_choice"])),
    ("ollama-openai", "none", {}, Notes(emulated=["tool_choice"])),
    ("ollama-openai", "required", {"tools": [F, G]}, Notes(dropped=["tool_choice"])),
    ("ollama-openai", "auto", {"tools": [F, G]}, Notes()),
])
def test_tool_choice(dialect: str, choice: Any, sent: dict[str, Any], notes: Notes) -> None:
    """llama.cpp ignores a named choice and Ollama any: the list of tools says what it can."""
    assert adapt(dialect, tools=[F, G], tool_choice=choice) == (sent, notes)


@pytest.mark.parametrize("dialect", SERVERS)
@pytest.mark.parametrize(("given", "sent"), [
    ("", "{}"), ("  ", "{}"), ('{"a": 1}', '{"a": 1}'), ("ls -l", '{"text":"ls -l"}'), ({"a": 1}, '{"a":1}'), (None, "{}"),
    ("[1]", '{"text":"[1]"}'),
])
def test_arguments_in_the_history(dialect: str, given: Any, sent: str) -> None:
    """Arguments of earlier calls are the JSON text of an object: templates parse them and fail on anything else."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": given}}
    got, _ = adapt(dialect, messages=[USER, {"role": "assistant", "content": "", "tool_calls": [call]}, RESULT])
    assert got["messages"][1]["tool_calls"][0]["function"]["arguments"] == sent


@pytest.mark.parametrize("dialect", SERVERS)
def test_text_parts_become_strings(dialect: str) -> None:
    """Content that is only text goes as a string, in every role; a refusal is text too."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    got, _ = adapt(dialect, messages=[
        {"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        CALLING, {**RESULT, "content": parts}, {"role": "user", "content": [PNG]}])
    assert [m["content"] for m in got["messages"]] == ["a\n\nb", "no", None, "a\n\nb", [PNG]]


@pytest.mark.parametrize(("dialect", "options"), [
    ("compatible", {"include_usage": True}), ("llamacpp", {"include_usage": True}),
    ("ollama-openai", {"include_usage": True}), ("vllm", {"continuous_usage_stats": True, "include_usage": True}),
])
def test_streams_report_usage(dialect: str, options: dict[str, Any]) -> None:
    """A stream reports its usage whatever the client said; vLLM in every chunk, unless the client wants otherwise."""
    assert adapt(dialect, stream=True) == ({"stream": True, "stream_options": options}, Notes())
    assert adapt(dialect, stream=True, stream_options={"include_usage": False})[0]["stream_options"] == options
    assert adapt(dialect, stream=False)[0] == {"stream": False}
    got, _ = adapt("vllm", stream=True, stream_options={"continuous_usage_stats": False})
    assert got["stream_options"] == {"continuous_usage_stats": False, "include_usage": True}


@pytest.mark.parametrize(("dialect", "model", "given", "sent", "notes"), [
    ("vllm", "Qwen/Qwen3-8B", "none", {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}}, Notes()),
    ("vllm", "openai/gpt-oss-20b", "none", {"reasoning_effort": "none"}, Notes()),
    ("vllm", "qwen3", "max", {"reasoning_effort": "max"}, Notes()),
    ("llamacpp", "any", "none", {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}}, Notes()),
    ("llamacpp", "any", "high", {"reasoning_effort": "high"}, Notes()),
    ("compatible", "any", "low", {"reasoning_effort": "low"}, Notes()),
    ("ollama-openai", "any", "none", {"reasoning_effort": "none"}, Notes()),
    ("ollama-openai", "any", "minimal", {"reasoning_effort": "low"}, Notes(emulated=["effort"])),
    ("ollama-openai", "any", "xhigh", {"reasoning_effort": "max"}, Notes(emulated=["effort"])),
    ("ollama-openai", "any", "odd", {}, Notes(dropped=["effort"])),
    ("ollama-openai", "any", ["odd"], {}, Notes(dropped=["effort"])),
])
def test_effort(dialect: str, model: str, given: Any, sent: dict[str, Any], notes: Notes) -> None:
    """No thinking is said to Qwen's template too; Ollama has levels of its own."""
    assert adapt(dialect, model, reasoning_effort=given) == (sent, notes)


def test_the_client_may_set_the_template() -> None:
    """What a client says to the template wins over what its effort says."""
    got, _ = adapt("vllm", reasoning_effort="none", chat_template_kwargs={"enable_thinking": True, "x": 1})
    assert got["chat_template_kwargs"] == {"enable_thinking": True, "x": 1}


@pytest.mark.parametrize(("dialect", "sent", "dropped"), [
    ("vllm", {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "n": 2, "logit_bias": {"5": 1}}, ["user"]),
    ("llamacpp", {"top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "n": 2, "logit_bias": {"5": 1}}, ["user"]),
    ("ollama-openai", {}, ["logit_bias", "min_p", "n", "repetition_penalty", "top_k", "user"]),
])
def test_sampling_of_open_models(dialect: str, sent: dict[str, Any], dropped: list[str]) -> None:
    """vLLM and llamacpp take the samplers of open models, by their own names; Ollama's route takes none of these."""
    got, notes = adapt(dialect, top_k=5, min_p=0.1, repetition_penalty=1.1, n=2, logit_bias={"5": 1}, user="u")
    assert got == sent
    assert (sorted(notes.dropped), notes.emulated) == (dropped, [])


@pytest.mark.parametrize(("dialect", "model", "sent", "dropped"), [
    ("compatible", "qwen3", {"reasoning_content": "hm"}, []), ("compatible", "kimi-k2", {"reasoning_content": "hm"}, []),
    ("compatible", "openai/gpt-oss-20b", {"reasoning_content": "hm"}, []),
    ("compatible", "openai/gpt-5", {}, ["thinking"]), ("compatible", "mistralai/mistral-small", {}, ["thinking"]),
    ("vllm", "qwen3", {"reasoning_content": "hm", "reasoning": "hm"}, []), ("llamacpp", "qwen3", {"reasoning_content": "hm"}, []),
    ("ollama-openai", "qwen3", {"reasoning": "hm"}, []),
])
def test_reasoning_in_the_history(dialect: str, model: str, sent: dict[str, Any], dropped: list[str]) -> None:
    """Reasoning goes back under the server's name, but not to models whose makers' servers refuse the field."""
    turn = {"role": "assistant", "content": "a"}
    got, notes = adapt(dialect, model, messages=[USER, {**turn, "reasoning_content": "hm"}, USER])
    assert got["messages"] == [USER, {**turn, **sent}, USER]
    assert notes == Notes(dropped=dropped)


GIF = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,aGk="}}
LINK = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}


@pytest.mark.parametrize(("dialect", "part", "sent", "dropped"), [
    ("llamacpp", FILE, "[document]", ["documents"]), ("llamacpp", PNG, PNG, []), ("llamacpp", LINK, LINK, []),
    ("llamacpp", AUDIO, AUDIO, []), ("vllm", FILE, "[document]", ["documents"]), ("vllm", AUDIO, AUDIO, []),
    ("compatible", FILE, FILE, []),
    ("ollama-openai", PNG, PNG, []), ("ollama-openai", LINK, "[image]", ["image:url"]),
    ("ollama-openai", GIF, "[image]", ["image:media_type"]), ("ollama-openai", FILE, "[document]", ["documents"]),
    ("ollama-openai", AUDIO, "[audio]", ["foreign:input_audio"]),
    ("ollama-openai", {"type": "image_url", "image_url": PNG["image_url"]["url"]},  # type: ignore[index]
     {"type": "image_url", "image_url": "data:image/png;base64,aGk="}, []),
])
def test_parts(dialect: str, part: Any, sent: Any, dropped: list[str]) -> None:
    """A part that the server refuses becomes a placeholder, by name; Ollama takes base64 images of four kinds only."""
    text = {"type": "text", "text": "see"}
    got, notes = adapt(dialect, messages=[{"role": "user", "content": [text, part]}])
    want = f"see\n\n{sent}" if isinstance(sent, str) else [text, sent]
    assert got["messages"] == [{"role": "user", "content": want}]
    assert notes == Notes(dropped=dropped)


def test_ollama_wants_content() -> None:
    """Null content without calls is an error to Ollama's route, so it goes as an empty string."""
    got, _ = adapt("ollama-openai", messages=[USER, {"role": "assistant", "content": None}, CALLING, RESULT])
    assert [m["content"] for m in got["messages"]] == ["hi", "", None, "r"]


def test_a_json_schema_stays() -> None:
    """All of them take OpenAI's form of a schema."""
    wanted = {"type": "json_schema", "json_schema": {"name": "r", "schema": {"type": "object"}}}
    for dialect in SERVERS:
        assert adapt(dialect, response_format=wanted) == ({"response_format": wanted}, Notes())


def test_an_anthropic_request_to_vllm() -> None:
    """A request of Claude Code's kind, with a system message in the middle, arrives as Qwen's template takes it."""
    body = encode_request({
        "model": "claude-opus-4-8", "max_tokens": 100, "stream": True, "system": "s", "thinking": {"type": "disabled"},
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"}]},
            {"role": "system", "content": "mind this"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}]})
    rendered = PROVIDERS["openai"].render_request(CLIENTS["anthropic"].parse_request(body), Target("Qwen3-Coder"))
    notes = Notes()
    DIALECTS["vllm"].adapt(rendered.fields, "openai", Target("Qwen3-Coder"), notes)
    fields = rendered.fields
    assert [m["role"] for m in fields["messages"]] == ["system", "user", "assistant", "tool", "user"]
    assert fields["messages"][2]["reasoning_content"] == "hm"
    assert fields["messages"][4]["content"] == reminder("mind this")
    assert fields["max_tokens"] == 100
    assert fields["chat_template_kwargs"] == {"enable_thinking": False}
    assert notes == Notes(emulated=["system"])
