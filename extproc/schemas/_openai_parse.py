"""OpenAI Chat Completions request -> neutral conversation: settings, tools and formats.

Source: PyPI openai 3.54.0, types/chat/completion_create_params.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.core.conversation import EXTRAS, Conversation, Tool, ToolChoice
from extproc.core.errors import RequestError
from extproc.schemas._codec import ANY, Found, decode, labels, require_text, set_fields
from extproc.schemas._openai_parse_messages import WireMessage, parse_messages

_KNOWN = EXTRAS | {
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "max_tokens", "max_completion_tokens", "stream",
    "stream_options", "temperature", "top_p", "top_k", "stop", "seed", "n", "reasoning_effort", "response_format",
    "user", "audio", "modalities", "functions",
}


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _JsonSchema(msgspec.Struct):
    name: str = "response"
    schema: Any = None
    strict: bool | None = None
    description: str | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[WireMessage]
    tools: list[msgspec.Raw] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    reasoning_effort: str | None = None
    response_format: _ResponseFormat | None = None
    user: str | None = None
    modalities: list[str] | None = None


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Custom(msgspec.Struct):
    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None
    cache_control: Any = None


class _CustomTool(msgspec.Struct):
    custom: _Custom


_REQUEST = msgspec.json.Decoder(_Request)
_TOOL = msgspec.json.Decoder(_Tool)
_CUSTOM = msgspec.json.Decoder(_CustomTool)


def parse_request(body: bytes) -> Conversation:
    """Parse a chat completion request.

    Raises:
        RequestError: with the path of the wrong field. Any other exception is a bug.
    """
    request = decode(_REQUEST, body)
    _check(request)
    fields = set_fields(body)
    found = Found([name for name in fields if name not in _KNOWN], _demands(request, fields))
    messages = parse_messages(request.messages, fields["messages"], found)
    tools = tuple(_tool(raw, f"tools[{i}]") for i, raw in enumerate(request.tools or ()))
    choice = _tool_choice(request.tool_choice, found)
    schema, json_object = _format(request.response_format, found)
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return Conversation(
        model=request.model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tools=request.parallel_tool_calls,
        max_tokens=limit,
        stream=bool(request.stream),
        stream_usage=_stream_usage(request.stream_options, found),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=_stop(request.stop),
        seed=request.seed,
        n=1 if request.n is None else request.n,
        effort=request.reasoning_effort,
        json_schema=schema,
        json_object=json_object,
        user=request.user,
        extras={name: decode(ANY, raw, name) for name, raw in fields.items() if name in EXTRAS},
        unmapped=labels(found.lost),
        demands=labels(found.demands),
    )


def _check(request: _Request) -> None:
    require_text(request.model, "model")
    if not request.messages:
        raise RequestError("messages: expected at least one message", param="messages")
    for name, value, least in (
        ("max_tokens", request.max_tokens, 0),
        ("n", request.n, 1),
        ("max_completion_tokens", request.max_completion_tokens, 0),
    ):
        if value is not None and value < least:
            raise RequestError(f"{name}: expected at least {least}, got {str(value)[:20]}", param=name)


def _demands(request: _Request, fields: Mapping[str, msgspec.Raw]) -> list[str]:
    """What no other schema has: without it the answer would lack what the client waits for."""
    demands = ["n"] if request.n is not None and request.n > 1 else []
    if "audio" in fields or "audio" in (request.modalities or ()):
        demands.append("audio")
    if "functions" in fields:  # their callers read function_call, not tool_calls
        demands.append("functions")
    return demands


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _stream_usage(options: _StreamOptions | None, found: Found) -> bool:
    if options is None:
        return False
    if options.include_obfuscation:
        found.lost.append("stream_options.include_obfuscation")
    return bool(options.include_usage)


def _format(wanted: _ResponseFormat | None, found: Found) -> tuple[Any, bool]:
    if wanted is None or wanted.type == "text":
        return None, False
    if wanted.type == "json_object":
        return None, True
    if wanted.type != "json_schema":
        found.lost.append("response_format")
        return None, False
    given = wanted.json_schema
    if given is None:
        path = "response_format.json_schema"
        raise RequestError(f"{path}: required field is missing", param=path)
    schema = {
        "name": given.name,
        "schema": given.schema,
        "strict": given.strict,
        "description": given.description,
    }
    return {key: value for key, value in schema.items() if value is not None}, False


def _tool_choice(choice: str | dict[str, Any] | None, found: Found) -> ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        match choice:
            case "auto" | "none":
                return ToolChoice(choice)
            case "required" | "any":
                return ToolChoice("any")
            case _:
                raise RequestError(f"tool_choice: unknown choice {choice[:40]!r}", param="tool_choice")
    if choice.get("type") == "allowed_tools":
        return _allowed_tools(choice.get("allowed_tools"), found)
    return ToolChoice("tool", require_text(_inner_name(choice), "tool_choice.function.name"))


def _allowed_tools(allowed: Any, found: Found) -> ToolChoice:
    if not isinstance(allowed, dict) or not isinstance(given := allowed.get("tools"), list):
        path = "tool_choice.allowed_tools"
        raise RequestError(f"{path}: expected a mode and a list of tools", param=path)
    names = [_inner_name(tool) for tool in given if isinstance(tool, dict)]
    known = tuple(name for name in names if isinstance(name, str) and name)
    if len(known) < len(given):
        found.lost.append("tool_choice.allowed_tools")
    return ToolChoice("any" if allowed.get("mode") == "required" else "auto", allowed=known)


def _inner_name(tool: dict[str, Any]) -> Any:
    """The name in {"type": T, T: {"name": ...}}, or the flat form of the Responses API."""
    inner = tool.get("function") or tool.get("custom") or tool
    return inner.get("name") if isinstance(inner, dict) else None


def _tool(raw: msgspec.Raw, path: str) -> Tool:
    tool = decode(_TOOL, raw, path)
    if tool.type == "function":
        if tool.function is None:
            raise RequestError(f"{path}.function: required field is missing", param=f"{path}.function")
        function = tool.function
        require_text(function.name, f"{path}.function.name")
        return Tool(function.name, function.description, function.parameters, function.strict, tool.cache_control)
    if tool.type == "custom":
        custom = decode(_CUSTOM, raw, path).custom
        require_text(custom.name, f"{path}.custom.name")
        return Tool(custom.name, custom.description, kind="custom", format=_flat(custom.format))
    value = decode(ANY, raw, path)
    inner = value.get(tool.type)
    name = inner.get("name") if isinstance(inner, dict) else None
    return Tool(name if isinstance(name, str) else tool.type, foreign=value, schema="openai")


def _flat(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The neutral form of a grammar: here it is nested under its own name, elsewhere it is flat."""
    grammar = given.get("grammar") if given else None
    return {"type": "grammar", **grammar} if isinstance(grammar, dict) else given
