"""OpenAI Chat Completions messages -> neutral messages.

Source: PyPI openai 3.54.0, types/chat/chat_completion_message_param.py and the parts it names.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from extproc.core.conversation import (
    Document,
    Foreign,
    Image,
    Message,
    Part,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from extproc.core.errors import RequestError
from extproc.schemas._codec import ANY, Found, decode, label

_CARRIED = frozenset({
    "role", "content", "tool_calls", "tool_call_id", "refusal", "reasoning_content", "reasoning", "function_call",
})
_EMPTY = (b"null", b"[]", b"{}", b"false")


class _CallFunction(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class _CallCustom(msgspec.Struct):
    name: str
    input: str = ""


class _Call(msgspec.Struct):
    function: _CallFunction | None = None
    id: str | None = None
    custom: _CallCustom | None = None


class WireMessage(msgspec.Struct):
    """One message of any role."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[msgspec.Raw] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    function_call: _CallFunction | None = None


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    cache_control: Any = None  # an extension of gateways that Anthropic's caching is reached through
    prompt_cache_breakpoint: Any = None


class _TextPart(msgspec.Struct):
    text: str


class _RefusalPart(msgspec.Struct):
    refusal: str


class _ImagePart(msgspec.Struct):
    image_url: str | _ImageUrl


class _ThinkingPart(msgspec.Struct):
    thinking: str | list[_TextPart]


class _FilePart(msgspec.Struct):
    file: _File


_PART = msgspec.json.Decoder(_Part)
_TEXT = msgspec.json.Decoder(_TextPart)
_REFUSAL = msgspec.json.Decoder(_RefusalPart)
_IMAGE = msgspec.json.Decoder(_ImagePart)
_THINKING = msgspec.json.Decoder(_ThinkingPart)
_FILE = msgspec.json.Decoder(_FilePart)
_KEYS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def parse_messages(given: list[WireMessage], raw: msgspec.Raw, found: Found) -> tuple[Message, ...]:
    """Read the messages (`raw` is their JSON); tool messages that follow each other become one user message.

    Raises:
        RequestError: with the path of the wrong field.
    """
    _note_fields(raw, found)
    messages: list[Message] = []
    results: list[Part] = []
    for i, message in enumerate(given):
        path = f"messages[{i}]"
        if message.role in ("tool", "function"):
            results.append(_tool_result(message, path, found))
            continue
        if results:
            messages.append(Message("user", tuple(results)))
            results = []
        if message.name is not None:
            found.lost.append("messages.name")
        messages.append(_message(message, path, found))
    if results:
        messages.append(Message("user", tuple(results)))
    return tuple(messages)


def _note_fields(raw: msgspec.Raw, found: Found) -> None:
    """Name the message fields (prefix, audio, a vendor's own, ...) that are set and not carried."""
    for fields in decode(_KEYS, raw, "messages"):
        for name, value in fields.items():
            if name not in _CARRIED and name != "name" and bytes(value) not in _EMPTY:
                found.lost.append(f"messages.{name}")


def _message(message: WireMessage, path: str, found: Found) -> Message:
    parts = _content(message.content, path, found)
    match message.role:
        case "assistant":
            return Message("assistant", _assistant(message, parts, path, found))
        case "user":
            # A question that was not understood whole must not be answered by somebody who was not told it.
            found.demands += [label("foreign", part.kind) for part in parts if isinstance(part, Foreign)]
            return Message("user", parts)
        case _:
            return Message("system", parts)


def _assistant(message: WireMessage, parts: tuple[Part, ...], path: str, found: Found) -> tuple[Part, ...]:
    parts = tuple(part for part in parts if not isinstance(part, Text) or part.text)
    thought = message.reasoning_content
    if not thought and message.reasoning:
        if isinstance(message.reasoning, str):
            thought = message.reasoning
        else:
            found.lost.append("messages.reasoning")
    if thought:
        parts = (Thinking(thought), *parts)
    if message.refusal:
        parts = (*parts, Text(message.refusal))
    return parts + tuple(_calls(message, path))


def _calls(message: WireMessage, path: str) -> list[Part]:
    calls: list[Part] = []
    for i, call in enumerate(message.tool_calls or ()):
        identifier = call.id or f"call_{i}"
        if call.function is not None:
            calls.append(_use(identifier, call.function))
        elif call.custom is not None:
            calls.append(ToolUse(identifier, call.custom.name, call.custom.input, kind="custom"))
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


def _tool_result(message: WireMessage, path: str, found: Found) -> ToolResult:
    identifier = message.tool_call_id if message.role == "tool" else message.name
    if identifier is None:
        field = f"{path}.{'tool_call_id' if message.role == 'tool' else 'name'}"
        raise RequestError(f"{field}: required field is missing", param=field)
    kept: list[Text | Image | Document] = []
    for part in _content(message.content, path, found):
        if isinstance(part, Text | Image | Document):
            kept.append(part)
        else:
            found.lost.append(label("foreign", part.kind if isinstance(part, Foreign) else "thinking"))
    return ToolResult(identifier, tuple(kept))


def _content(content: str | list[msgspec.Raw] | None, path: str, found: Found) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(raw, f"{path}.content[{i}]", found) for i, raw in enumerate(content))


def _part(raw: msgspec.Raw, path: str, found: Found) -> Part:
    head = decode(_PART, raw, path)
    if head.prompt_cache_breakpoint is not None:
        found.lost.append("prompt_cache_breakpoint")
    match head.type:
        case "text":
            return Text(decode(_TEXT, raw, path).text, head.cache_control)
        case "refusal":
            return Text(decode(_REFUSAL, raw, path).refusal)
        case "thinking":  # Mistral's form of reasoning_content
            thought = decode(_THINKING, raw, path).thinking
            return Thinking(thought if isinstance(thought, str) else "".join(piece.text for piece in thought))
        case "image_url":
            return _image(decode(_IMAGE, raw, path).image_url, head.cache_control)
        case "file" if (file := decode(_FILE, raw, path).file).file_data is not None:
            return _document(file.file_data, file.filename, head.cache_control)
        case kind:
            return Foreign(kind, decode(ANY, raw, path), "openai")


def _image(given: str | _ImageUrl, cache: Any) -> Image:
    image = _ImageUrl(given) if isinstance(given, str) else given
    media_type, data = _data_uri(image.url)
    if data is None:
        return Image(url=image.url, detail=image.detail, cache=cache)
    return Image(media_type=media_type, data=data, detail=image.detail, cache=cache)


def _document(file_data: str, filename: str | None, cache: Any) -> Document:
    media_type, data = _data_uri(file_data)
    return Document(media_type=media_type or "application/pdf", data=data or file_data, name=filename, cache=cache)


def _data_uri(url: str) -> tuple[str | None, str | None]:
    """Split a base64 data URI (RFC 2397) into its media type and its data; (None, None) for anything else."""
    head, comma, data = url.partition(",") if url[:5].lower() == "data:" else ("", "", "")
    if not comma or not head.lower().endswith(";base64"):
        return None, None
    return head[5:-7].partition(";")[0] or "application/octet-stream", data
