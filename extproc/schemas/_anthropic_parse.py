"""Anthropic Messages request -> neutral conversation.

Source: PyPI anthropic 2.12.0, types/message_create_params.py.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec

from extproc.core.conversation import (
    Conversation,
    Document,
    Foreign,
    Image,
    Message,
    Part,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from extproc.core.errors import RequestError
from extproc.schemas._codec import ANY, compact, decode, labels, require_text, unmapped_fields

_KNOWN = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "stop_sequences",
        "stream",
        "metadata",
        "temperature",
        "top_p",
        "top_k",
    }
)


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[msgspec.Raw]


class _Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _ThinkingConfig(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Format(msgspec.Struct):
    type: str
    schema: Any = None


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Request(msgspec.Struct):
    model: str
    max_tokens: int
    messages: list[_Message]
    system: str | list[msgspec.Raw] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: _Choice | None = None
    thinking: _ThinkingConfig | None = None
    output_config: _OutputConfig | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: _Metadata | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class _Block(msgspec.Struct):
    type: str


class _Text(msgspec.Struct):
    text: str
    cache_control: Any = None
    citations: Any = None


class _Source(msgspec.Struct):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class _Media(msgspec.Struct):
    source: _Source
    title: str | None = None
    cache_control: Any = None


class _Thinking(msgspec.Struct):
    thinking: str
    signature: str | None = None


class _Redacted(msgspec.Struct):
    data: str


class _ToolUse(msgspec.Struct):
    id: str
    name: str
    input: msgspec.Raw
    cache_control: Any = None


class _ToolResult(msgspec.Struct):
    tool_use_id: str
    content: str | list[msgspec.Raw] | None = None
    is_error: bool | None = None
    cache_control: Any = None


class _Tool(msgspec.Struct):
    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Any = None


_REQUEST = msgspec.json.Decoder(_Request)
_BLOCK = msgspec.json.Decoder(_Block)
_TEXT = msgspec.json.Decoder(_Text)
_MEDIA = msgspec.json.Decoder(_Media)
_THINKING = msgspec.json.Decoder(_Thinking)
_REDACTED = msgspec.json.Decoder(_Redacted)
_USE = msgspec.json.Decoder(_ToolUse)
_RESULT = msgspec.json.Decoder(_ToolResult)
_TOOL = msgspec.json.Decoder(_Tool)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def parse_request(body: bytes) -> Conversation:
    """Parse a Messages request.

    Raises:
        RequestError: with the path of the wrong field. Any other exception is a bug.
    """
    request = decode(_REQUEST, body)
    _check(request)
    lost = unmapped_fields(body, _KNOWN)
    messages = _messages(request, lost)
    tools = tuple(_tool(raw, f"tools[{i}]") for i, raw in enumerate(request.tools or ()))
    choice, parallel = _tool_choice(request.tool_choice)
    effort, schema = _output(request.output_config, lost)
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
        user=request.metadata.user_id if request.metadata else None,
        unmapped=labels(lost),
    )


def _check(request: _Request) -> None:
    require_text(request.model, "model")
    if not request.messages:
        raise RequestError("messages: expected at least one message", param="messages")
    if request.max_tokens < 0:
        raise RequestError("max_tokens: expected at least 0", param="max_tokens")


def _output(config: _OutputConfig | None, lost: list[str]) -> tuple[str | None, Any]:
    if config is None:
        return None, None
    wanted = config.format
    if wanted is not None and wanted.type != "json_schema":
        lost.append("output_config.format")
        wanted = None
    return config.effort, None if wanted is None else {"name": "response", "schema": wanted.schema}


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
        return Tool(tool.name or tool.type, cache=tool.cache_control, foreign=decode(ANY, raw, path))
    if tool.input_schema is None:
        raise RequestError(f"{path}.input_schema: required field is missing", param=f"{path}.input_schema")
    name = require_text(tool.name, f"{path}.name")
    return Tool(name, tool.description, tool.input_schema, tool.strict, tool.cache_control)


def _messages(request: _Request, lost: list[str]) -> tuple[Message, ...]:
    messages: list[Message] = []
    if request.system:
        messages.append(Message("system", _content(request.system, "system", lost)))
    for i, message in enumerate(request.messages):
        messages.append(Message(message.role, _content(message.content, f"messages[{i}].content", lost)))
    return tuple(messages)


def _content(content: str | list[msgspec.Raw], path: str, lost: list[str]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(raw, f"{path}[{i}]", lost) for i, raw in enumerate(content))


def _part(raw: msgspec.Raw, path: str, lost: list[str]) -> Part:
    kind = decode(_BLOCK, raw, path).type
    match kind:
        case "text":
            text = decode(_TEXT, raw, path)
            if text.citations:
                lost.append("citations")
            return Text(text.text, text.cache_control)
        case "tool_use":
            use = decode(_USE, raw, path)
            decode(_OBJECT, use.input, f"{path}.input")
            return ToolUse(use.id, use.name, bytes(use.input).decode(), use.cache_control)
        case "tool_result":
            return _tool_result(decode(_RESULT, raw, path), path, lost)
        case "thinking":
            thought = decode(_THINKING, raw, path)
            return Thinking(thought.thinking, thought.signature or None)
        case "redacted_thinking":
            return Thinking(redacted=decode(_REDACTED, raw, path).data)
        case "image" | "document":
            return _media(kind, raw, path)
        case _:
            return Foreign(kind, decode(ANY, raw, path))


def _media(kind: str, raw: msgspec.Raw, path: str) -> Part:
    media = decode(_MEDIA, raw, path)
    source, cache = media.source, media.cache_control
    match source.type:
        case "base64" if source.data is not None:
            where = {"media_type": source.media_type, "data": source.data}
        case "url" if source.url is not None:
            where = {"url": source.url}
        case "text" if source.data is not None and kind == "document":
            return Document(media_type=source.media_type, text=source.data, name=media.title, cache=cache)
        case _:
            return Foreign(kind, decode(ANY, raw, path))
    return (
        Image(**where, cache=cache) if kind == "image" else Document(**where, name=media.title, cache=cache)
    )


def _tool_result(result: _ToolResult, path: str, lost: list[str]) -> ToolResult:
    parts = _content(result.content or "", f"{path}.content", lost) if result.content else ()
    plain = tuple(_plain(part) for part in parts)
    return ToolResult(result.tool_use_id, plain, bool(result.is_error), result.cache_control)


def _plain(part: Part) -> Text | Image | Document:
    """What a tool result may hold; search results and the like keep their content as JSON text."""
    if isinstance(part, Text | Image | Document):
        return part
    value = part.value if isinstance(part, Foreign) else msgspec.to_builtins(part)
    return Text(compact(cast(object, value)))
