"""What requests and answers of different schemas have in common, and by which names they differ."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from extproc.core import conversation as c
from extproc.core.usage import Tokens
from extproc.schemas._answer import Answer
from extproc.schemas._codec import json_object, tool_id
from extproc.schemas.base import ClientSchema, ProviderSchema, Rendered
from extproc.wire.sse import SseDecoder

ATTRIBUTION = "x-anthropic-billing-header:"


# ---------------------------------------------------------------- requests


def merged(messages: Iterable[c.Message]) -> list[c.Message]:
    """Adjacent messages of one role as one, tool results first; a system message stands alone once turns have begun."""
    out: list[c.Message] = []
    for message in messages:
        parts = tuple(part for part in message.parts if not isinstance(part, c.Text) or part.text.strip())
        if message.role == "system":
            parts = tuple(part for part in parts if not getattr(part, "text", "").startswith(ATTRIBUTION))
        if not parts:
            continue
        if out and out[-1].role == message.role:
            parts = (*out.pop().parts, *parts)
        out.append(c.Message(message.role, tuple(sorted(parts, key=lambda part: not isinstance(part, c.ToolResult)))))
    return out


def spoken(part: c.Part, named: set[str]) -> Any:
    """What every schema can say of a part, less the marks that features in `named` leave; the rest is a feature."""
    match part:
        case c.Text(text="[document]") if "document:url" in named:
            return None
        case c.Text(text=text) | c.Document(text=str() as text):
            return text
        case c.ToolUse(id=identifier, name=name, arguments=arguments, kind=kind):
            return kind, tool_id(identifier), name, json.loads(arguments) if json_object(arguments) else arguments
        case c.ToolResult(id=identifier, parts=parts):
            lines = "\n".join(p.text for p in parts if not isinstance(p, c.Image) and p.text).split("\n")
            if "tool_result.is_error" in named:
                lines[0] = lines[0].removeprefix("Error: ")
            if "tool_result.images" in named:
                lines = [line for line in lines if line != "[image]"]
            return tool_id(identifier), "\n".join(lines)
        case _:
            return None


def dialogue(conversation: c.Conversation, named: set[str]) -> list[tuple[str, Any]]:
    """Who says what, less what `named` tells of; an assistant's text and calls apart, as OpenAI has them."""
    turns: list[tuple[str, list[Any]]] = []
    for message in merged(conversation.messages):
        said = [item for part in message.parts if (item := spoken(part, named)) is not None]
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(said)
        elif said:
            turns.append((message.role, said))
    return [(role, _apart(role, said)) for role, said in turns]


def _apart(role: str, said: list[Any]) -> Any:
    """Results first in a user's turn; one text, with no white space at its end, and the calls of any other."""
    if role == "user":
        return sorted(said, key=lambda item: isinstance(item, str))
    text = ("" if role == "assistant" else "\n\n").join(item for item in said if isinstance(item, str))
    return text.rstrip(), [item for item in said if not isinstance(item, str)]


def parts_of(conversation: c.Conversation) -> list[Any]:
    """All parts, also those within tool results."""
    parts = [part for message in conversation.messages for part in message.parts]
    return parts + [inner for part in parts if isinstance(part, c.ToolResult) for inner in part.parts]


def tool(given: c.Tool) -> Any:
    """A tool as every schema says it; where strict is not the default it is said to be off."""
    parameters = {"type": "object", **(given.parameters or {"properties": {}})}
    return given.name, given.description or None, parameters, bool(given.strict)


def features(conversation: c.Conversation) -> dict[str, Any]:
    """What a request asks for, under the names by which renderers tell that they dropped or changed it."""
    parts = parts_of(conversation)
    thoughts = [part for part in parts if isinstance(part, c.Thinking)]
    results = [part for part in parts if isinstance(part, c.ToolResult)]
    schema = dict(conversation.json_schema or {})
    found: dict[str, Any] = {
        "tools": [tool(t) for t in conversation.tools if t.foreign is None and t.kind == "function"],
        "tool_choice": None if conversation.tool_choice == c.ToolChoice("auto") else conversation.tool_choice,
        "parallel_tool_calls": conversation.parallel_tools is not False,
        "json_schema": schema.pop("schema", None),
        "response_format": conversation.json_object,
        "image": [(p.media_type, p.data, p.url) for p in parts if isinstance(p, c.Image)],
        "image.detail": [p.detail for p in parts if isinstance(p, c.Image) and p.detail not in (None, "auto")],
        "document.text": [p.name for p in parts if isinstance(p, c.Document) and p.text is not None],
        "document:url": [(p.data, p.url) for p in parts if isinstance(p, c.Document) and p.text is None],
        "thinking": "".join(thought.text for thought in thoughts),
        "thinking.signature": [thought.signature for thought in thoughts if thought.signature],
        "redacted": [thought.redacted for thought in thoughts if thought.redacted],
        "tool_result.is_error": [r.id for r in results if r.is_error],
        "tool_result.images": [r.id for r in results if any(isinstance(p, c.Image) for p in r.parts)],
        "cache_control": [p.cache for p in (*parts, *conversation.tools) if getattr(p, "cache", None)],
        "system_cache": conversation.system_cache,
        "max_tokens": conversation.max_tokens, "temperature": conversation.temperature, "top_p": conversation.top_p,
        "top_k": conversation.top_k, "stop": conversation.stop, "seed": conversation.seed, "n": conversation.n,
        "effort": None if conversation.effort == "none" else conversation.effort, "user": conversation.user,
        "stream": conversation.stream, "thinking_mode": conversation.thinking or ("disabled" if conversation.effort == "none" else None),
        "thinking_budget": conversation.thinking_budget,
        "thinking_display": conversation.thinking_display,
        **conversation.extras,
        **{f"response_format.{name}": value for name, value in schema.items() if (name, value) != ("name", "response")},
    }
    for part in parts:
        if isinstance(part, c.Foreign):
            found.setdefault(f"foreign:{part.kind}", []).append(part.value)
    for given in conversation.tools:
        if given.foreign is not None or given.kind == "custom":
            found[f"tool:{given.name}"] = given
        for name, value in (given.extra or {}).items():
            found.setdefault(f"tools.{name}", []).append((given.name, value))
    # Lists are sorted: what a tool result showed may come later, with the rest of its message.
    return {name: sorted(value, key=str) if isinstance(value, list) else value
            for name, value in found.items() if value not in (None, [], (), "", False)}


_ALSO: dict[str, tuple[str, ...]] = {
    "redacted": ("thinking",), "thinking.signature": ("thinking",), "system_cache": ("cache_control",),
    "effort": ("thinking_mode",), "thinking_mode": ("thinking_budget", "thinking_display"),
    "thinking_display": ("thinking_mode",),
    "tools": ("tool_choice.allowed_tools",), "tool_choice": ("tool_choice.allowed_tools",),
}
"""Names that tell of another feature's loss too."""


def told(named: set[str], feature: str) -> bool:
    """Whether the loss of a feature was named."""
    also = (*_ALSO.get(feature, ()), feature.replace("tools.", "tool:"))
    if feature.startswith(("tools.", "tool:", "cache_control")):
        also += ("tool_choice.allowed_tools",)  # the other tools are not sent
    return feature in named or any(name in named for name in also)


def lost(before: c.Conversation, after: c.Conversation) -> set[str]:
    """The features in which two conversations differ."""
    old, new = features(before), features(after)
    if before.max_tokens is None:
        new.pop("max_tokens", None)  # Anthropic demands a limit
    if not after.tools and before.tool_choice == c.ToolChoice("none"):
        old.pop("tool_choice", None)
    if not after.tools or (after.tool_choice or before.tool_choice) == c.ToolChoice("none"):
        old["parallel_tool_calls"] = new["parallel_tool_calls"] = True  # one at a time of none says nothing
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def names(*rendered: Rendered) -> set[str]:
    """All that renderers dropped or changed by name."""
    return {name for each_one in rendered for name in (*each_one.dropped, *each_one.emulated)}


def settled(conversation: c.Conversation, *, own: str) -> c.Conversation:
    """A request in the one form that its own renderer gives it."""
    messages = []
    for message in merged(conversation.messages):
        parts = tuple(msgspec.structs.replace(p, parts=joined(p.parts, "\n")) if isinstance(p, c.ToolResult) else p
                      for p in message.parts)
        if own == "openai":
            parts = joined(parts, {"system": "\n\n", "assistant": ""}.get(message.role))
        messages.append(c.Message(message.role, parts))
    return msgspec.structs.replace(
        conversation, messages=tuple(messages), unmapped=(), demands=(), stream_usage=False,
        parallel_tools=False if conversation.parallel_tools is False else None)


def joined(parts: tuple[Any, ...], separator: str | None) -> tuple[Any, ...]:
    """Adjacent texts without cache marks as one text."""
    out: list[Any] = []
    for part in parts:
        if separator is not None and out and isinstance(part, c.Text) and isinstance(out[-1], c.Text):
            out[-1] = c.Text(out[-1].text + separator + part.text)
        else:
            out.append(part)
    return tuple(out)


# ---------------------------------------------------------------- answers


def events_of(schema: ProviderSchema, body: bytes, *, is_stream: bool) -> list[c.Event]:
    """What an answer says."""
    if not is_stream:
        return list(schema.parse_response(body))
    parser = schema.stream_parser()
    return [event for raw in SseDecoder().feed(body) if raw.data for event in parser.feed(raw)]


def streamed(schema: ClientSchema, events: list[c.Event]) -> bytes:
    """The stream that a client gets."""
    renderer = schema.stream_renderer(model="m", created=1, fallback_id="x", include_usage=True)
    return b"".join(renderer.feed(event) for event in events)


def counted(tokens: Tokens, *, exact: bool) -> tuple[int | None, ...]:
    """Usage; classes that a schema must fill count as 0 when unknown. Not `exact`: OpenAI's classes only."""
    written = tokens.cache_write_5m or 0, tokens.cache_write_1h or 0
    classes = written if exact else (sum(written),)
    return tokens.input or 0, tokens.cache_read or 0, *classes, tokens.total_output or 0, tokens.reasoning or 0


def said(answer: Answer, *, exact: bool) -> dict[str, Any]:
    """What an answer says, its pieces joined. Not `exact`: without what OpenAI's schema cannot say."""
    thoughts = [(b.kind, b.text, b.signature) for b in answer.blocks if b.kind in ("thinking", "redacted")]
    stop = {"stop_sequence": "end", "pause": "end", "context": "length"}.get(answer.stop, answer.stop)
    calls = [(b.id if exact else tool_id(b.id), b.name, b.tool_kind, "".join((b.text or "{}").split())) for b in answer.tools()]
    return {
        "text": answer.text("text"), "calls": calls, "usage": counted(answer.tokens, exact=exact),
        "thinking": thoughts if exact else answer.text("thinking"),
        "stop": (answer.stop, answer.sequence) if exact else stop,
    }


def failed(events: list[c.Event]) -> bool:
    """Whether it is an error in place of an answer."""
    return any(isinstance(event, c.Failure) for event in events)
