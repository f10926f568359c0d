"""OpenAI Chat Completions request -> neutral conversation.

Source: PyPI openai 3.54.0, types/chat/completion_create_params.py.
"""

from __future__ import annotations

from typing import Any, Literal

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
from extproc.schemas._codec import ANY, decode, labels, require_text, unmapped_fields

_KNOWN = frozenset(
    {
        "model",
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "seed",
        "n",
        "reasoning_effort",
        "response_format",
        "user",
    }
)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _JsonSchema(msgspec.Struct):
    name: str = "response"
    schema: Any = None
    strict: bool | None = None
    description: str | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _CallFunction(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class _Call(msgspec.Struct):
    function: _CallFunction | None = None
    id: str | None = None
    type: str = "function"
    custom: Any = None


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[msgspec.Raw] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    function_call: _CallFunction | None = None
    audio: Any = None


class _Request(msgspec.Struct):
    model: str
    messages: list[_Message]
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


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str


class _TextPart(msgspec.Struct):
    text: str
    prompt_cache_breakpoint: Any = None


class _RefusalPart(msgspec.Struct):
    refusal: str


class _ImagePart(msgspec.Struct):
    image_url: str | _ImageUrl


class _ThinkingPart(msgspec.Struct):
    thinking: str | list[_TextPart]


class _FilePart(msgspec.Struct):
    file: _File


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None


_REQUEST = msgspec.json.Decoder(_Request)
_PART = msgspec.json.Decoder(_Part)
_TEXT = msgspec.json.Decoder(_TextPart)
_REFUSAL = msgspec.json.Decoder(_RefusalPart)
_IMAGE = msgspec.json.Decoder(_ImagePart)
_THINKING = msgspec.json.Decoder(_ThinkingPart)
_FILE = msgspec.json.Decoder(_FilePart)
_TOOL = msgspec.json.Decoder(_Tool)


def parse_request(body: bytes) -> Conversation:
    """Parse a chat completion request.

    Raises:
        RequestError: with the path of the wrong field. Any other exception is a bug.
    """
    request = decode(_REQUEST, body)
    _check(request)
    lost = unmapped_fields(body, _KNOWN)
    messages = _messages(request.messages, lost)
    tools = tuple(_tool(raw, f"tools[{i}]") for i, raw in enumerate(request.tools or ()))
    choice = _tool_choice(request.tool_choice, lost)
    schema, json_object = _format(request.response_format, lost)
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    options = request.stream_options
    return Conversation(
        model=request.model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tools=request.parallel_tool_calls,
        max_tokens=limit,
        stream=bool(request.stream),
        stream_usage=bool(options and options.include_usage),
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
        unmapped=labels(lost),
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


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _format(wanted: _ResponseFormat | None, lost: list[str]) -> tuple[Any, bool]:
    if wanted is None or wanted.type == "text":
        return None, False
    if wanted.type == "json_object":
        return None, True
    if wanted.type != "json_schema":
        lost.append("response_format")
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


def _tool_choice(choice: str | dict[str, Any] | None, lost: list[str]) -> ToolChoice | None:
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
        lost.append("tool_choice.allowed_tools")
        allowed = choice.get("allowed_tools")
        return ToolChoice(
            "any" if isinstance(allowed, dict) and allowed.get("mode") == "required" else "auto"
        )
    inner = choice.get("function") or choice.get("custom") or choice
    name = inner.get("name") if isinstance(inner, dict) else None
    return ToolChoice("tool", require_text(name, "tool_choice.function.name"))


def _tool(raw: msgspec.Raw, path: str) -> Tool:
    tool = decode(_TOOL, raw, path)
    if tool.type == "function":
        if tool.function is None:
            raise RequestError(f"{path}.function: required field is missing", param=f"{path}.function")
        function = tool.function
        require_text(function.name, f"{path}.function.name")
        return Tool(function.name, function.description, function.parameters, function.strict)
    value = decode(ANY, raw, path)
    inner = value.get(tool.type)
    name = inner.get("name") if isinstance(inner, dict) else None
    return Tool(name if isinstance(name, str) else tool.type, foreign=value)


def _messages(given: list[_Message], lost: list[str]) -> tuple[Message, ...]:
    messages: list[Message] = []
    results: list[Part] = []
    for i, message in enumerate(given):
        path = f"messages[{i}]"
        if message.role in ("tool", "function"):
            results.append(_tool_result(message, path, lost))
            continue
        if results:
            messages.append(Message("user", tuple(results)))
            results = []
        if message.name is not None:
            lost.append("messages.name")
        messages.append(_message(message, path, lost))
    if results:
        messages.append(Message("user", tuple(results)))
    return tuple(messages)


def _message(message: _Message, path: str, lost: list[str]) -> Message:
    parts = _content(message.content, path, lost)
    match message.role:
        case "assistant":
            return Message("assistant", _assistant(message, parts, path, lost))
        case "user":
            return Message("user", parts)
        case _:
            return Message("system", parts)


def _assistant(message: _Message, parts: tuple[Part, ...], path: str, lost: list[str]) -> tuple[Part, ...]:
    thought = message.reasoning_content
    if not thought and isinstance(message.reasoning, str):
        thought = message.reasoning
    if thought:
        parts = (Thinking(thought), *parts)
    if message.refusal:
        parts = (*parts, Text(message.refusal))
    if message.audio is not None:
        lost.append("messages.audio")
    return parts + tuple(_calls(message, path))


def _calls(message: _Message, path: str) -> list[Part]:
    calls: list[Part] = []
    for i, call in enumerate(message.tool_calls or ()):
        if call.function is not None:
            calls.append(_use(call.id or f"call_{i}", call.function))
        elif call.custom is not None:
            calls.append(Foreign("custom_tool_call", msgspec.to_builtins(call)))
        else:
            field = f"{path}.tool_calls[{i}].function"
            raise RequestError(f"{field}: required field is missing", param=field)
    if message.function_call is not None:
        calls.append(_use(message.function_call.name, message.function_call))
    return calls


def _use(identifier: str, function: _CallFunction) -> ToolUse:
    arguments = function.arguments
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    return ToolUse(identifier, function.name, arguments)


def _tool_result(message: _Message, path: str, lost: list[str]) -> ToolResult:
    identifier = message.tool_call_id if message.role == "tool" else message.name
    if identifier is None:
        field = f"{path}.{'tool_call_id' if message.role == 'tool' else 'name'}"
        raise RequestError(f"{field}: required field is missing", param=field)
    parts = _content(message.content, path, lost)
    lost += [f"foreign:{part.kind}" for part in parts if isinstance(part, Foreign)]
    return ToolResult(identifier, tuple(part for part in parts if isinstance(part, Text | Image | Document)))


def _content(content: str | list[msgspec.Raw] | None, path: str, lost: list[str]) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(raw, f"{path}.content[{i}]", lost) for i, raw in enumerate(content))


def _part(raw: msgspec.Raw, path: str, lost: list[str]) -> Part:
    kind = decode(_PART, raw, path).type
    match kind:
        case "text":
            text = decode(_TEXT, raw, path)
            if text.prompt_cache_breakpoint is not None:
                lost.append("prompt_cache_breakpoint")
            return Text(text.text)
        case "refusal":
            return Text(decode(_REFUSAL, raw, path).refusal)
        case "thinking":  # Mistral's form of reasoning_content
            thought = decode(_THINKING, raw, path).thinking
            return Thinking(thought if isinstance(thought, str) else "".join(piece.text for piece in thought))
        case "image_url":
            return _image(decode(_IMAGE, raw, path).image_url)
        case "file":
            file = decode(_FILE, raw, path).file
            if file.file_data is not None:
                return _document(file.file_data, file.filename)
            return Foreign(kind, decode(ANY, raw, path))
        case _:
            return Foreign(kind, decode(ANY, raw, path))


def _image(given: str | _ImageUrl) -> Image:
    image = _ImageUrl(given) if isinstance(given, str) else given
    media_type, data = _data_uri(image.url)
    if data is None:
        return Image(url=image.url, detail=image.detail)
    return Image(media_type=media_type, data=data, detail=image.detail)


def _document(file_data: str, filename: str | None) -> Document:
    media_type, data = _data_uri(file_data)
    return Document(media_type=media_type or "application/pdf", data=data or file_data, name=filename)


def _data_uri(url: str) -> tuple[str | None, str | None]:
    """Split a base64 data URI (RFC 2397) into its media type and its data; (None, None) for anything else."""
    head, comma, data = url.partition(",") if url[:5].lower() == "data:" else ("", "", "")
    if not comma or not head.lower().endswith(";base64"):
        return None, None
    return head[5:-7].partition(";")[0] or "application/octet-stream", data
