"""Anthropic Messages request -> neutral conversation: settings, tools and formats.

Source: PyPI anthropic 2.12.0, types/message_create_params.py and types/beta/message_create_params.py. The API versions
2023-06-01 and 2026-10-21 have the same form; the later one refuses sampling parameters, which is the provider's answer.
Claude Code has two roles of its own, ctx and msg (vLLM reads them so, entrypoints/anthropic/protocol.py): a user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from extproc.core.conversation import Conversation, Message, Tool, ToolChoice
from extproc.core.errors import RequestError
from extproc.schemas._anthropic_parse_blocks import parse_content
from extproc.schemas._codec import ANY, Found, decode, labels, require_text, set_fields

_KNOWN = frozenset({
    "model", "messages", "max_tokens", "system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences",
    "stream", "metadata", "temperature", "top_p", "top_k", "cache_control", "service_tier",
})
_DEMANDS = ("mcp_servers", "container", "thread", "compaction", "inference_geo")
"""Without the tools, files or state behind them the answer would be another one; the region is a promise."""
_NOTHING = (b"[]", b"{}", b'"global"')
_TIERS = {"auto": "auto", "standard_only": "default"}
_TOOL_FIELDS = frozenset({"name", "description", "input_schema", "strict", "cache_control"})


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system", "ctx", "msg"]
    content: str | list[msgspec.Raw]


class _Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _ThinkingConfig(msgspec.Struct):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _Request(msgspec.Struct):
    model: str
    max_tokens: int
    messages: list[_Message]
    system: str | list[msgspec.Raw] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: _Choice | None = None
    thinking: _ThinkingConfig | None = None
    output_config: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    cache_control: dict[str, Any] | None = None
    service_tier: str | None = None


class _Tool(msgspec.Struct):
    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Any = None


_REQUEST = msgspec.json.Decoder(_Request)
_TOOL = msgspec.json.Decoder(_Tool)


def parse_request(body: bytes) -> Conversation:
    """Parse a Messages request.

    Raises:
        RequestError: with the path of the wrong field. Any other exception is a bug.
    """
    request = decode(_REQUEST, body)
    _check(request)
    fields = set_fields(body)
    found = Found([name for name in fields if name not in _KNOWN and name not in _DEMANDS], _demands(fields))
    messages = _messages(request, found)
    tools = tuple(_tool(raw, f"tools[{i}]") for i, raw in enumerate(request.tools or ()))
    choice, parallel = _tool_choice(request.tool_choice)
    effort, schema = _output(request.output_config, found)
    thinking = request.thinking
    return Conversation(
        model=request.model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tools=parallel,
        max_tokens=request.max_tokens,
        stream=bool(request.stream),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=tuple(request.stop_sequences or ()),
        effort=effort,
        thinking_budget=thinking.budget_tokens if thinking and thinking.type == "enabled" else None,
        json_schema=schema,
        user=_user(request.metadata, found),
        extras=_extras(request, found),
        thinking=thinking.type if thinking else None,
        thinking_display=thinking.display if thinking else None,
        system_cache=_system_cache(request.cache_control, found),
        unmapped=labels(found.lost),
        demands=labels(found.demands),
    )


def _check(request: _Request) -> None:
    require_text(request.model, "model")
    if not request.messages:
        raise RequestError("messages: expected at least one message", param="messages")
    if request.max_tokens < 0:
        raise RequestError("max_tokens: expected at least 0", param="max_tokens")


def _demands(fields: Mapping[str, msgspec.Raw]) -> list[str]:
    return [name for name in _DEMANDS if name in fields and bytes(fields[name]) not in _NOTHING]


def _output(config: dict[str, Any] | None, found: Found) -> tuple[str | None, Any]:
    """The effort and the JSON schema of output_config."""
    given = {name: value for name, value in (config or {}).items() if value is not None}
    effort, wanted = given.pop("effort", None), given.pop("format", None)
    found.lost += [f"output_config.{name}" for name in given]
    if not isinstance(effort, str | None):
        raise RequestError("output_config.effort: expected a string", param="output_config.effort")
    if wanted is None:
        return effort, None
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        found.lost.append("output_config.format")
        return effort, None
    return effort, {"name": "response", "schema": wanted.get("schema")}


def _user(metadata: dict[str, Any] | None, found: Found) -> str | None:
    given = {name: value for name, value in (metadata or {}).items() if value is not None}
    user = given.pop("user_id", None)
    found.lost += [f"metadata.{name}" for name in given]
    if not isinstance(user, str | None):
        raise RequestError("metadata.user_id: expected a string", param="metadata.user_id")
    return user


def _extras(request: _Request, found: Found) -> dict[str, Any]:
    tier = request.service_tier
    if tier is None:
        return {}
    if tier in _TIERS:
        return {"service_tier": _TIERS[tier]}
    found.lost.append("service_tier")
    return {}


def _system_cache(cache: dict[str, Any] | None, found: Found) -> bool:
    if cache is not None and cache.get("ttl") not in (None, "5m"):
        found.lost.append("cache_control.ttl")
    return cache is not None


def _tool_choice(choice: _Choice | None) -> tuple[ToolChoice | None, bool | None]:
    if choice is None:
        return None, None
    parallel = None if choice.disable_parallel_tool_use is None else not choice.disable_parallel_tool_use
    if choice.type == "tool":
        return ToolChoice("tool", require_text(choice.name, "tool_choice.name")), parallel
    return ToolChoice(choice.type), parallel


def _tool(raw: msgspec.Raw, path: str) -> Tool:
    tool = decode(_TOOL, raw, path)
    if tool.input_schema is None and tool.type not in (None, "custom"):
        value = decode(ANY, raw, path)
        return Tool(tool.name or tool.type, cache=tool.cache_control, foreign=value, schema="anthropic")
    if tool.input_schema is None:
        raise RequestError(f"{path}.input_schema: required field is missing", param=f"{path}.input_schema")
    name = require_text(tool.name, f"{path}.name")
    fields = set_fields(raw)
    extra = {key: decode(ANY, value, path) for key, value in fields.items() if key not in _TOOL_FIELDS}
    return Tool(name, tool.description, tool.input_schema, tool.strict, tool.cache_control,
                extra=extra or None, schema="anthropic" if extra else "")


def _messages(request: _Request, found: Found) -> tuple[Message, ...]:
    messages: list[Message] = []
    if request.system:
        messages.append(Message("system", parse_content(request.system, "system", "system", found)))
    for i, message in enumerate(request.messages):
        role = "user" if message.role in ("ctx", "msg") else message.role
        messages.append(Message(role, parse_content(message.content, f"messages[{i}].content", role, found)))
    return tuple(messages)
