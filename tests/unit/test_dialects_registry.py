"""The dialects as a whole: their names, hosts, schemas and paths, and that none breaks on hostile fields."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.config import SPOKEN, DialectName
from extproc.core import conversation as c
from extproc.core.errors import RequestError
from extproc.dialects import DIALECTS, by_host
from extproc.dialects.base import Notes
from extproc.schemas import PROVIDERS
from extproc.schemas._codec import encode_request
from extproc.schemas.base import Target

MODELS = ("m", "gpt-5", "o3", "claude-opus-4-6", "claude-sonnet-4-5", "claude-3-5-haiku-latest", "claude-opus-5-5",
          "magistral-small-latest", "deepseek-v4-pro", "qwen3-coder")


@pytest.mark.parametrize(("url", "schema", "name"), [
    ("https://api.openai.com/v1", "openai", "openai"),
    ("https://API.OpenAI.com/v1", "openai", "openai"),
    ("https://api.openai.com:443", "openai", "openai"),
    ("https://api.deepseek.com", "openai", "deepseek"),
    ("https://api.deepseek.com/beta", "openai", "deepseek"),
    ("https://api.deepseek.com/anthropic", "anthropic", None),
    ("https://api.mistral.ai/v1", "openai", "mistral"),
    ("https://codestral.mistral.ai/v1", "openai", "mistral"),
    ("https://api.anthropic.com", "anthropic", "anthropic"),
    ("https://api.anthropic.com", "openai", None),
    ("https://api.openai.com.evil.example/v1", "openai", None),
    ("http://127.0.0.1:11434/v1", "openai", None),
    ("http://[::1/v1", "openai", None),
    ("", "openai", None),
])
def test_the_host_tells_the_dialect(url: str, schema: str, name: str | None) -> None:
    """A known host means its dialect, but only in the schema which that dialect speaks."""
    assert by_host(url, schema) == name


def test_every_name_of_the_configuration_is_a_dialect() -> None:
    """Each dialect that gateway.yaml may name exists, in each schema that it is said to speak."""
    for name in get_args(DialectName):
        for schema in SPOKEN.get(name, ("openai",)):
            full = name if DIALECTS[name].schema == schema else f"{name}-{schema}"
            assert DIALECTS[full].schema == schema
    assert {name for name, dialect in DIALECTS.items() if dialect.name != name} == set()


@pytest.mark.parametrize(("name", "wires"), [
    # client:      openai    anthropic    responses  completions    fim            embeddings    count_tokens
    ("openai",     ("openai", "openai", "responses", "openai", "openai", "embeddings", None)),
    ("compatible", ("openai", "openai", "openai", "openai", "openai", "embeddings", None)),
    ("anthropic",  ("anthropic", "anthropic", "anthropic", "anthropic", "anthropic", None, "count_tokens")),
    ("deepseek",   ("openai", "openai", "openai", "completions", "completions", None, None)),
    ("mistral",    ("openai", "openai", "openai", "fim", "fim", "embeddings", None)),
    ("ollama",     ("ollama", "ollama", "ollama", "completions", "completions", "embeddings", None)),
    ("ollama-openai", ("openai", "openai", "openai", "completions", "completions", "embeddings", None)),
    ("vllm",       ("openai", "openai", "openai", "completions", "completions", "embeddings", "count_tokens")),
    ("llamacpp",   ("openai", "openai", "openai", "completions", "completions", "embeddings", "count_tokens")),
])
def test_the_schema_that_leaves(name: str, wires: tuple[str | None, ...]) -> None:
    """For a request of each client schema: the schema in which it goes to the provider, or that it cannot go."""
    clients = ("openai", "anthropic", "responses", "completions", "fim", "embeddings", "count_tokens")
    assert tuple(DIALECTS[name].wire(client) for client in clients) == wires


@pytest.mark.parametrize(("name", "wire", "path"), [
    ("openai", "openai", "/v1/chat/completions"),
    ("deepseek", "openai", "/v1/chat/completions"),
    ("deepseek", "completions", "/beta/completions"),
    ("mistral", "fim", "/v1/fim/completions"),
    ("ollama", "ollama", "/api/chat"),
    ("ollama", "completions", "/v1/completions"),
    ("ollama-openai", "openai", "/v1/chat/completions"),
    ("vllm", "count_tokens", "/v1/messages/count_tokens"),
    ("anthropic", "anthropic", "/v1/messages"),
])
def test_paths(name: str, wire: str, path: str) -> None:
    """The path is the schema's own, but for DeepSeek's beta route that fills in the middle."""
    assert DIALECTS[name].path(wire) == path


def test_keys_go_where_the_provider_looks() -> None:
    """Anthropic gets the key in its own header, all others as a bearer token."""
    assert DIALECTS["anthropic"].credentials("k") == {"x-api-key": "k"}
    assert {str(d.credentials("k")) for n, d in DIALECTS.items() if n != "anthropic"} == {"{'authorization': 'Bearer k'}"}


def test_marks_of_local_servers() -> None:
    """Servers of open models get their tool calls repaired; only Ollama's OpenAI route cuts prompts silently."""
    assert {n for n, d in DIALECTS.items() if d.repairs} == {"compatible", "vllm", "llamacpp", "ollama", "ollama-openai"}
    assert {n for n, d in DIALECTS.items() if d.silent_truncation} == {"ollama-openai"}
    assert {n for n, d in DIALECTS.items() if d.verbatim} == {"openai", "anthropic", "ollama", "compatible"}


@pytest.mark.parametrize(("model", "blind"), [
    ("deepseek-v4-pro", True), ("deepseek-chat", True), ("deepseek-flash", False), ("deepseek-v4-flash", False),
])
@pytest.mark.parametrize("part", [
    c.Image(data="aGk=", media_type="image/png"), c.ToolResult("1", (c.Image(url="https://x/y.png"),)),
])
def test_deepseek_models_that_cannot_see(model: str, blind: bool, part: c.Part) -> None:
    """A request with an image, also one in a tool result, is not for a DeepSeek model without vision."""
    conversation = c.Conversation("m", (c.Message("user", (part,)),))
    for client in ("openai", "anthropic"):
        refused = DIALECTS["deepseek"].refuses(conversation, client, Target(model))
        assert refused == (("images",) if blind else ())


@pytest.mark.parametrize(("image", "refused"), [
    (c.Image(data="aGk=", media_type="image/png"), ()), (c.Image(url="https://x/y.png"), ("image:url",)),
])
def test_ollama_fetches_no_images(image: c.Image, refused: tuple[str, ...]) -> None:
    """An image by URL, also one in a tool result, is not for Ollama's OpenAI route, whoever asks."""
    for part in (image, c.ToolResult("1", (image,))):
        conversation = c.Conversation("m", (c.Message("user", (part,)),))
        for client in ("openai", "anthropic"):
            assert DIALECTS["ollama-openai"].refuses(conversation, client, Target("m")) == refused


def test_documents() -> None:
    """These take no PDF in the form that OpenAI's schema has for it."""
    assert {n for n, d in DIALECTS.items() if "documents" in d.lacks} == {
        "deepseek", "mistral", "ollama", "ollama-openai", "vllm", "llamacpp"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.sampled_from(
        ["", "x", "user", "assistant", "system", "tool", "developer", "text", "image_url", "function", "custom", "file",
         "allowed_tools", "required", "enabled", "disabled", "adaptive", "none", "high", "json_schema", "tool_result"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["role", "content", "type", "text", "name", "tool_calls", "function", "arguments", "id", "tool_call_id",
         "image_url", "url", "allowed_tools", "tools", "mode", "json_schema", "schema", "effort", "format",
         "budget_tokens", "reasoning_content", "cache_control", "input_schema"]), inner, max_size=4), max_leaves=12)
FIELDS = st.dictionaries(st.sampled_from(
    ["messages", "system", "tools", "tool_choice", "thinking", "output_config", "reasoning_effort", "response_format",
     "stop", "stop_sequences", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
     "service_tier", "metadata", "user", "n", "seed", "cache_control", "chat_template_kwargs", "options"]), JSON)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool", 5]), "content": JSON},
    optional={"tool_calls": JSON, "tool_call_id": JSON, "name": JSON, "reasoning_content": JSON})


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(DIALECTS)), model=st.sampled_from(MODELS), fields=FIELDS,
       messages=st.lists(MESSAGE, max_size=5))
def test_hostile_fields(name: str, model: str, fields: dict[str, Any], messages: list[Any]) -> None:
    """Fields of any JSON type are adapted or left alone; nothing but a RequestError is raised, names are header-safe
    text, and what comes out can be written."""
    dialect, notes = DIALECTS[name], Notes()
    fields = {"model": model, "messages": messages, **fields}
    try:
        dialect.adapt(fields, dialect.schema, Target(model, context=4096), notes)
    except RequestError:
        return
    assert all(isinstance(note, str) and note for note in (*notes.dropped, *notes.emulated))
    json.loads(encode_request(fields))


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_other_wires_are_left_alone(name: str) -> None:
    """Requests in a native schema beside the chat's (embeddings, ...) are not touched."""
    for wire in {"embeddings", "completions", "count_tokens", "fim"} & set(PROVIDERS):
        fields: dict[str, Any] = {"model": "m", "input": ["a"], "user": "u" * 99, "seed": 1}
        notes = Notes()
        DIALECTS[name].adapt(fields, wire, Target("m"), notes)
        assert fields == {"model": "m", "input": ["a"], "user": "u" * 99, "seed": 1}
        assert notes == Notes()
