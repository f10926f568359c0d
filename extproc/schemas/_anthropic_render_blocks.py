"""Neutral messages -> Anthropic content blocks."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable
from typing import Any

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
from extproc.schemas._codec import json_object, label, tool_id
from extproc.schemas._loss import PartsRenderer

Block = dict[str, Any]


def cached(block: Block, cache: Any) -> Block:
    """The block with its cache mark, if it has one."""
    if cache is not None:
        block["cache_control"] = cache
    return block


class Blocks(PartsRenderer):
    """Renders the turns."""

    def render(self, messages: tuple[Message, ...]) -> tuple[list[Block], list[Block]]:
        """The system blocks and the messages, same roles merged, tool results first in their message."""
        lead = next((i for i, message in enumerate(messages) if not _leads(message)), len(messages))
        system = [block for message in messages[:lead] for block in self._each(message.parts, self._system)]
        turns: list[Block] = []
        for message in messages[lead:]:
            self._append(turns, *self._turn(message))
        if not turns and system:  # at least one message is demanded
            self._emulated.append("system")
            return [], [{"role": "user", "content": system}]
        for turn in turns:
            turn["content"].sort(key=_not_tool_result)
        if turns and turns[-1]["role"] == "assistant":
            _trim(turns[-1]["content"])
        return system, turns

    def _append(self, turns: list[Block], role: str, content: list[Block]) -> None:
        if not content:
            return
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += content
        else:
            turns.append({"role": role, "content": content})

    def _turn(self, message: Message) -> tuple[str, list[Block]]:
        match message.role:
            case "system":
                return "system", self._each(message.parts, self._system)
            case "assistant":
                return "assistant", self._each(message.parts, self._assistant)
            case "user":
                return "user", self._each(message.parts, self._user)

    def _each(self, parts: tuple[Part, ...], render: Callable[[Part], Block | None]) -> list[Block]:
        return [block for part in parts if (block := render(part)) is not None]

    def _system(self, part: Part) -> Block | None:
        match part:
            case Text():
                return _text(part)
            case Foreign(schema="anthropic", value=value):
                return value
            case _:
                return self._drop(part)

    def _user(self, part: Part) -> Block | None:
        match part:
            case Text():
                return _text(part)
            case Image():
                return self._image(part)
            case Document():
                return self._document(part)
            case ToolResult():
                return self._tool_result(part)
            case Foreign(schema="anthropic", value=value):
                return value
            case _:
                return self._drop(part)

    def _assistant(self, part: Part) -> Block | None:
        match part:
            case Text():
                return _text(part)
            case ToolUse():
                return self._tool_use(part)
            case Thinking(redacted=str() as data):
                return {"type": "redacted_thinking", "data": data}
            case Thinking(text=text, signature=str() as signature):
                return {"type": "thinking", "thinking": text, "signature": signature}
            case Thinking():
                self._dropped.append("thinking")
                return None
            case Foreign(schema="anthropic", value=value):
                return value
            case _:
                return self._drop(part)

    def _tool_use(self, part: ToolUse) -> Block:
        block: Block = {"type": "tool_use", "id": tool_id(part.id), "name": part.name, "input": self._input(part)}
        return cached(block, part.cache)

    def _input(self, part: ToolUse) -> Any:
        """The arguments as an object: their exact bytes when they are one."""
        if part.kind == "function":
            if json_object(part.arguments):
                return msgspec.Raw(part.arguments.encode())
            if not part.arguments.strip():
                return {}
        self._emulated.append("tool_calls.arguments")
        return {"input" if part.kind == "custom" else "text": part.arguments}

    def _tool_result(self, part: ToolResult) -> Block:
        block: Block = {"type": "tool_result", "tool_use_id": tool_id(part.id)}
        content = self._each(part.parts, self._user)
        if content:
            block["content"] = content
        if part.is_error:
            block["is_error"] = True
        return cached(block, part.cache)

    def _image(self, part: Image) -> Block:
        if part.detail not in (None, "auto"):
            self._dropped.append("image.detail")
        if part.data is None:
            source = {"type": "url", "url": part.url or ""}
        else:
            source = {"type": "base64", "media_type": part.media_type or "image/png", "data": part.data}
        return cached({"type": "image", "source": source}, part.cache)

    def _document(self, part: Document) -> Block | None:
        media_type = part.media_type or "application/pdf"
        if (text := part.text if part.data is None else _decoded(media_type, part.data)) is not None:
            source = {"type": "text", "media_type": "text/plain", "data": text}
        elif part.url is not None:
            source = {"type": "url", "url": part.url}
        elif media_type == "application/pdf":
            source = {"type": "base64", "media_type": media_type, "data": part.data}
        else:
            self._dropped.append(label("document", media_type))
            return None
        block: Block = {"type": "document", "source": source}
        if part.name:
            block["title"] = part.name
        return cached(block, part.cache)


def _leads(message: Message) -> bool:
    """Whether it can stand before the first turn, in the `system` field, which takes text only."""
    return message.role == "system" and not any(
        isinstance(part, Foreign) and part.schema == "anthropic" for part in message.parts)


def _text(part: Text) -> Block | None:
    # An empty or blank text block is a 400.
    return cached({"type": "text", "text": part.text}, part.cache) if part.text.strip() else None


def _not_tool_result(block: Block) -> bool:
    return block.get("type") != "tool_result"


def _trim(content: list[Block]) -> None:
    """A final assistant text that ends in white space is a 400."""
    if content[-1].get("type") == "text":
        content[-1]["text"] = content[-1]["text"].rstrip()


def _decoded(media_type: str, data: str) -> str | None:
    """The text of a base64 text file (Anthropic takes only PDF as base64)."""
    if not media_type.startswith("text/") and media_type not in ("application/json", "application/yaml"):
        return None
    try:
        return b64decode(data).decode()
    except (binascii.Error, ValueError):
        return None
