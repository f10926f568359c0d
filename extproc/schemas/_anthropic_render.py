"""Neutral conversation -> Anthropic Messages request."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

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
    ToolResult,
    ToolUse,
)
from extproc.schemas._codec import encode_request, json_object, label, labels, tool_id
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel

_EFFORT = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_ALWAYS_THINKING = ("fable", "mythos")
"""Models that refuse thinking.disabled; the least effort comes nearest."""
_OWN_KINDS = frozenset({"image", "document", "search_result", "server_tool_use", "container_upload", "mcp_tool_use",
                        "fallback", "compaction", "tool_addition", "tool_removal", "tool_reference"})
"""Foreign parts that came from this schema; so did all whose kind ends in `_tool_result`."""

Block = dict[str, Any]


def render_request(conversation: Conversation, target: Target) -> Rendered:
    """Render a Messages request; raise RequestError when a value cannot be written."""
    dropped: list[str] = list(conversation.unmapped)
    blocks = _Blocks(dropped)
    system, messages = blocks.render(conversation.messages)
    body: dict[str, Any] = {"model": target.model, "max_tokens": _max_tokens(conversation, target)}
    if system:
        body["system"] = system
    body["messages"] = messages
    _tools(body, conversation, dropped)
    _settings(body, conversation, target, dropped)
    if conversation.stream:
        body["stream"] = True
    return Rendered(encode_request(body), labels(dropped))


def patch_request(body: bytes, target: Target) -> bytes:
    """Replace the model; all else keeps its bytes. Raise RequestError for a field given twice."""
    return TopLevel(body).edit({"model": msgspec.json.encode(target.model)})


def refuses(conversation: Conversation) -> tuple[str, ...]:
    """Several choices, and parts such as audio that Claude cannot take."""
    refused = ["n"] if conversation.n > 1 else []
    refused += [
        label("foreign", part.kind)
        for message in conversation.messages
        for part in message.parts
        if isinstance(part, Foreign) and not _own(part.kind)
    ]
    return labels(refused)


def _max_tokens(conversation: Conversation, target: Target) -> int:
    limit = conversation.max_tokens
    if limit is None:
        return target.max_output or target.default_max_tokens
    return limit if target.max_output is None else min(limit, target.max_output)


def _settings(body: dict[str, Any], conversation: Conversation, target: Target, dropped: list[str]) -> None:
    for name, value in (
        ("temperature", conversation.temperature),
        ("top_p", conversation.top_p),
        ("top_k", conversation.top_k),
        ("seed", conversation.seed),
        ("response_format", conversation.json_object or None),
    ):
        if value is not None:
            dropped.append(name)
    stop = [text for text in conversation.stop if text.strip()]  # whitespace-only ones are a 400
    if stop:
        body["stop_sequences"] = stop
    if len(stop) < len(conversation.stop):
        dropped.append("stop")
    if conversation.user is not None:
        if len(conversation.user) <= 256:
            body["metadata"] = {"user_id": conversation.user}
        else:
            dropped.append("user")
    _thinking(body, conversation, target, dropped)


def _thinking(body: dict[str, Any], conversation: Conversation, target: Target, dropped: list[str]) -> None:
    output: dict[str, Any] = {}
    if conversation.thinking_budget is not None:
        body["thinking"] = {"type": "enabled", "budget_tokens": conversation.thinking_budget}
    if conversation.effort == "none":
        if any(name in target.model for name in _ALWAYS_THINKING):
            output["effort"] = "low"
        else:
            body["thinking"] = {"type": "disabled"}
    elif conversation.effort in _EFFORT:
        output["effort"] = _EFFORT[conversation.effort]
    elif conversation.effort is not None:
        dropped.append("effort")
    if conversation.json_schema is not None:
        output["format"] = {"type": "json_schema", "schema": conversation.json_schema.get("schema") or {}}
    if output:
        body["output_config"] = output


def _tools(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    tools: list[Block] = []
    names: set[str] = set()
    for tool in conversation.tools:
        if tool.foreign is not None and "custom" in tool.foreign:
            dropped.append(label("tool", tool.name))
            continue
        tools.append(tool.foreign if tool.foreign is not None else _tool(tool))
        names.add(tool.name)
    if not tools:
        return
    body["tools"] = tools
    choice = conversation.tool_choice
    wanted: Block | None = None
    if choice is not None and choice.mode == "tool" and choice.name not in names:
        dropped.append("tool_choice")
    elif choice is not None:
        wanted = (
            {"type": choice.mode, "name": choice.name} if choice.mode == "tool" else {"type": choice.mode}
        )
    if conversation.parallel_tools is False:
        wanted = wanted or {"type": "auto"}
        if wanted["type"] != "none":
            wanted["disable_parallel_tool_use"] = True
    if wanted is not None:
        body["tool_choice"] = wanted


def _tool(tool: Tool) -> Block:
    block: Block = {"name": tool.name}
    if tool.description:
        block["description"] = tool.description
    block["input_schema"] = {"type": "object", **(tool.parameters or {"properties": {}})}
    if tool.strict:
        block["strict"] = True
    return _cached(block, tool.cache)


def _cached(block: Block, cache: Any) -> Block:
    if cache is not None:
        block["cache_control"] = cache
    return block


class _Blocks:
    """Renders the turns, noting in `dropped` what gets lost."""

    def __init__(self, dropped: list[str]) -> None:
        self._dropped = dropped

    def render(self, messages: tuple[Message, ...]) -> tuple[list[Block], list[Block]]:
        """The system blocks and the messages, same roles merged, tool results first in their message."""
        lead = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        system = [
            block
            for message in messages[:lead]
            for part in message.parts
            if (block := self._system(part)) is not None
        ]
        turns: list[Block] = []
        for message in messages[lead:]:
            self._append(turns, *self._turn(message))
        if not turns and system:  # at least one message is demanded
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
                return "user", [
                    self._reminder(part)
                    for part in message.parts
                    if isinstance(part, Text) and part.text.strip()
                ]
            case "assistant":
                return "assistant", self._each(message.parts, self._assistant)
            case "user":
                return "user", self._each(message.parts, self._user)

    def _each(self, parts: tuple[Part, ...], render: Any) -> list[Block]:
        return [block for part in parts if (block := render(part)) is not None]

    def _reminder(self, part: Text) -> Block:
        return _cached(
            {"type": "text", "text": f"<system-reminder>\n{part.text}\n</system-reminder>"}, part.cache
        )

    def _system(self, part: Part) -> Block | None:
        return self._text(part) if isinstance(part, Text) else self._drop(part)

    def _text(self, part: Text) -> Block | None:
        # An empty or blank text block is a 400.
        return _cached({"type": "text", "text": part.text}, part.cache) if part.text.strip() else None

    def _user(self, part: Part) -> Block | None:
        match part:
            case Text():
                return self._text(part)
            case Image():
                return self._image(part)
            case Document():
                return self._document(part)
            case ToolResult():
                return self._tool_result(part)
            case Foreign(kind=kind, value=value) if _own(kind):
                return value
            case _:
                return self._drop(part)

    def _assistant(self, part: Part) -> Block | None:
        match part:
            case Text():
                return self._text(part)
            case ToolUse():
                return _cached(
                    {
                        "type": "tool_use",
                        "id": tool_id(part.id),
                        "name": part.name,
                        "input": _input(part.arguments),
                    },
                    part.cache,
                )
            case Thinking(redacted=str() as data):
                return {"type": "redacted_thinking", "data": data}
            case Thinking(text=text, signature=str() as signature):
                return {"type": "thinking", "thinking": text, "signature": signature}
            case Thinking():
                self._dropped.append("thinking")
                return None
            case Foreign(kind=kind, value=value) if _own(kind):
                return value
            case _:
                return self._drop(part)

    def _tool_result(self, part: ToolResult) -> Block:
        block: Block = {"type": "tool_result", "tool_use_id": tool_id(part.id)}
        content = self._each(part.parts, self._user)
        if content:
            block["content"] = content
        if part.is_error:
            block["is_error"] = True
        return _cached(block, part.cache)

    def _image(self, part: Image) -> Block:
        if part.detail not in (None, "auto"):
            self._dropped.append("image.detail")
        if part.data is None:
            source = {"type": "url", "url": part.url or ""}
        else:
            source = {"type": "base64", "media_type": part.media_type or "image/png", "data": part.data}
        return _cached({"type": "image", "source": source}, part.cache)

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
        return _cached(block, part.cache)

    def _drop(self, part: Part) -> None:
        kind = part.kind if isinstance(part, Foreign) else type(part).__name__.lower()
        self._dropped.append(label("foreign", kind))


def _own(kind: str) -> bool:
    return kind in _OWN_KINDS or kind.endswith("_tool_result")


def _not_tool_result(block: Block) -> bool:
    return block.get("type") != "tool_result"


def _trim(content: list[Block]) -> None:
    """A final assistant text that ends in white space is a 400."""
    if content[-1].get("type") == "text":
        content[-1]["text"] = content[-1]["text"].rstrip()


def _input(arguments: str) -> Any:
    """The arguments as an object: their exact bytes when they are one."""
    if json_object(arguments):
        return msgspec.Raw(arguments.encode())
    return {"text": arguments} if arguments.strip() else {}


def _decoded(media_type: str, data: str) -> str | None:
    """The text of a base64 text file (Anthropic takes only PDF as base64)."""
    if not media_type.startswith("text/") and media_type not in ("application/json", "application/yaml"):
        return None
    try:
        return b64decode(data).decode()
    except (binascii.Error, ValueError):
        return None
