"""Anthropic content blocks -> neutral parts.

Source: PyPI anthropic 2.12.0, types/content_block_param.py and the blocks it names.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from extproc.core.conversation import (
    Document,
    Foreign,
    Image,
    Part,
    Role,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from extproc.schemas._codec import ANY, Found, compact, decode, label

_ASIDES = frozenset({"tool_addition", "tool_removal", "tool_reference", "fallback"})
"""Blocks in a user's turn that are about the conversation and no part of the question; so are tool results."""


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
    context: str | None = None
    citations: Any = None
    transformations: Any = None


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
    caller: Any = None
    toolset_name: str | None = None


class _ToolResult(msgspec.Struct):
    tool_use_id: str
    content: str | list[msgspec.Raw] | None = None
    is_error: bool | None = None
    cache_control: Any = None


_BLOCK = msgspec.json.Decoder(_Block)
_TEXT = msgspec.json.Decoder(_Text)
_MEDIA = msgspec.json.Decoder(_Media)
_THINKING = msgspec.json.Decoder(_Thinking)
_REDACTED = msgspec.json.Decoder(_Redacted)
_USE = msgspec.json.Decoder(_ToolUse)
_RESULT = msgspec.json.Decoder(_ToolResult)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def parse_content(content: str | list[msgspec.Raw], path: str, role: Role, found: Found) -> tuple[Part, ...]:
    """Read a message's content; blocks that are not known pass as Foreign.

    Raises:
        RequestError: with the path of the wrong field.
    """
    if isinstance(content, str):
        return (Text(content),)
    parts = tuple(_part(raw, f"{path}[{i}]", found) for i, raw in enumerate(content))
    found.demands += [label("foreign", part.kind) for part in parts if isinstance(part, Foreign) and _asked(part, role)]
    return parts


def _asked(part: Foreign, role: Role) -> bool:
    """Whether the block is part of the question, or of what it goes back to: nobody may answer without it."""
    kind = part.kind
    return kind == "compaction" or (role == "user" and kind not in _ASIDES and not kind.endswith("_tool_result"))


def _part(raw: msgspec.Raw, path: str, found: Found) -> Part:
    kind = decode(_BLOCK, raw, path).type
    match kind:
        case "text":
            text = decode(_TEXT, raw, path)
            if text.citations:
                found.lost.append("citations")
            return Text(text.text, text.cache_control)
        case "tool_use":
            return _tool_use(decode(_USE, raw, path), path, found)
        case "tool_result":
            return _tool_result(decode(_RESULT, raw, path), path, found)
        case "thinking":
            thought = decode(_THINKING, raw, path)
            return Thinking(thought.thinking, thought.signature or None)
        case "redacted_thinking":
            return Thinking(redacted=decode(_REDACTED, raw, path).data)
        case "image" | "document":
            return _media(kind, raw, path, found)
        case _:
            return Foreign(kind, decode(ANY, raw, path), "anthropic")


def _tool_use(use: _ToolUse, path: str, found: Found) -> ToolUse:
    decode(_OBJECT, use.input, f"{path}.input")
    if use.toolset_name is not None:
        found.lost.append("tool_use.toolset_name")
    if isinstance(use.caller, dict) and cast(dict[str, Any], use.caller).get("type") != "direct":
        found.lost.append("tool_use.caller")
    return ToolUse(use.id, use.name, bytes(use.input).decode(), use.cache_control)


def _media(kind: str, raw: msgspec.Raw, path: str, found: Found) -> Part:
    media = decode(_MEDIA, raw, path)
    part = _image_or_document(kind, media)
    if part is None:
        return Foreign(kind, decode(ANY, raw, path), "anthropic")
    for name, value in (("context", media.context), ("citations", media.citations),
                        ("transformations", media.transformations)):
        if value:
            found.lost.append(f"{kind}.{name}")
    return part


def _image_or_document(kind: str, media: _Media) -> Image | Document | None:
    """The neutral form; None when only Anthropic can read the source (an uploaded file, blocks within a document)."""
    source, cache = media.source, media.cache_control
    match source.type:
        case "base64" if source.data is not None:
            where = {"media_type": source.media_type, "data": source.data}
        case "url" if source.url is not None:
            where = {"url": source.url}
        case "text" if source.data is not None and kind == "document":
            return Document(media_type=source.media_type, text=source.data, name=media.title, cache=cache)
        case _:
            return None
    return Image(**where, cache=cache) if kind == "image" else Document(**where, name=media.title, cache=cache)


def _tool_result(result: _ToolResult, path: str, found: Found) -> ToolResult:
    parts: tuple[Part, ...] = ()
    if isinstance(result.content, str):
        parts = (Text(result.content),) if result.content else ()
    elif result.content:
        parts = tuple(_part(raw, f"{path}.content[{i}]", found) for i, raw in enumerate(result.content))
    plain = tuple(_plain(part) for part in parts)
    return ToolResult(result.tool_use_id, plain, bool(result.is_error), result.cache_control)


def _plain(part: Part) -> Text | Image | Document:
    """What a tool result may hold; search results and the like keep their content as JSON text."""
    if isinstance(part, Text | Image | Document):
        return part
    value = part.value if isinstance(part, Foreign) else msgspec.to_builtins(part)
    return Text(compact(cast(object, value)))
