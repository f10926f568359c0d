"""Neutral conversation -> OpenAI Responses request."""

from __future__ import annotations

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
    ToolKind,
    ToolResult,
    ToolUse,
)
from extproc.core.errors import RequestError
from extproc.core.served import any_served
from extproc.schemas import _responses_builtin as builtin
from extproc.schemas._codec import FOREIGN_ERRORS, decode, encode, label, labels
from extproc.schemas._passing import edits
from extproc.schemas._responses_items import BOUND, PART, PART_TYPES
from extproc.schemas._responses_parse import ENCRYPTED, LOGPROBS
from extproc.schemas._responses_thoughts import SEAL
from extproc.schemas._responses_tools import is_foreign, render_tools
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel

MIN_OUTPUT = 16
"""OpenAI refuses a smaller max_output_tokens."""
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_DIRECT = frozenset({"metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
                     "top_logprobs"})
_ATTRIBUTION = "x-anthropic-billing-header:"
_LONGEST_USER = 64
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TOOLS = msgspec.json.Decoder(list[Any] | None)


class _Sealable(msgspec.Struct):
    type: Any = None
    encrypted_content: Any = None


_SEALABLE = msgspec.json.Decoder(_Sealable)


def render_request(conversation: Conversation, target: Target) -> Rendered:
    """Render a Responses request; raise RequestError when a value cannot be written."""
    dropped = [*conversation.unmapped, *(name for name in conversation.demands if not _carried(name))]
    emulated: list[str] = []
    items = _Items(conversation.messages, dropped, emulated)
    body: dict[str, Any] = {"model": target.model}
    if items.instructions is not None:
        body["instructions"] = items.instructions
    body["input"] = items.out
    _settings(body, conversation, target, dropped, emulated)
    _reasoning(body, conversation, dropped, emulated)
    _text(body, conversation)
    render_tools(body, conversation, dropped)
    _extras(body, conversation, dropped)
    if conversation.stream:
        body["stream"] = True
    return Rendered(body, labels(dropped), labels(emulated))


def _carried(demand: str) -> bool:
    """Whether a demand is for something that is in the conversation itself: a tool, an item, a file."""
    return demand in BOUND or demand.startswith(("tool:", "input_"))


def refuses(conversation: Conversation) -> tuple[str, ...]:
    """Several choices, a request that only warms a cache, or tools that are all another provider's."""
    refused = ["n"] if conversation.n > 1 else []
    if conversation.max_tokens == 0:
        refused.append("max_tokens:0")
    if conversation.tools and all(is_foreign(tool) for tool in conversation.tools):
        refused += [label("tool", tool.name) for tool in conversation.tools]
    return labels(refused)


def patch_request(body: bytes, target: Target, limits: tuple[str, ...]) -> bytes:
    """Replace the model and the limit; all else keeps its bytes, but for reasoning of other providers that this gateway
    sealed: a Responses backend cannot open it and would refuse the request.

    Raises:
        RequestError: the body is not an object or has a field twice.
    """
    fields = TopLevel(body)
    changed = edits(fields, target, limits)
    given = fields.get("input")
    if given is not None and SEAL.encode() in given and (kept := _unsealed(given)) is not None:
        changed["input"] = kept
    tools = fields.get("tools")
    if target.server_uses is not None and tools is not None and fields.get("max_tool_calls") in (None, b"null") and (
            any_served(decode(_TOOLS, tools, "tools") or [])):
        changed["max_tool_calls"] = encode(target.server_uses)
    return fields.edit(changed)


def _unsealed(given: bytes) -> bytes | None:
    """The input without sealed reasoning; None when it holds none."""
    try:
        items = _LIST.decode(given)
        kept = [item for item in items if not _is_sealed(item)]
    except FOREIGN_ERRORS as exc:
        raise RequestError("input: expected a text or a list of objects", param="input") from exc
    return None if len(kept) == len(items) else msgspec.json.encode(kept)


def _is_sealed(raw: msgspec.Raw) -> bool:
    if SEAL.encode() not in bytes(raw):
        return False
    item = _SEALABLE.decode(raw)
    content = item.encrypted_content
    return item.type == "reasoning" and isinstance(content, str) and content.startswith(SEAL)


def _settings(body: dict[str, Any], conversation: Conversation, target: Target, dropped: list[str],
              emulated: list[str]) -> None:
    limit = conversation.max_tokens
    if limit is not None:
        limit = limit if target.max_output is None else min(limit, target.max_output)
        if limit < MIN_OUTPUT:
            limit = MIN_OUTPUT
            emulated.append("max_tokens")
        body["max_output_tokens"] = limit
    for name, value in (("temperature", conversation.temperature), ("top_p", conversation.top_p)):
        if value is not None:
            body[name] = value
    if (user := conversation.user) is not None:
        # Longer ones are an agent's device and account ids, which are not for another provider.
        if len(user) <= _LONGEST_USER:
            body["user"] = user
        else:
            dropped.append("user")
    absent = {
        "stop": conversation.stop, "seed": conversation.seed is not None, "n": conversation.n != 1,
        "top_k": conversation.top_k is not None, "thinking_budget": conversation.thinking_budget is not None,
        "cache_control": conversation.system_cache,
    }
    dropped += [name for name, given in absent.items() if given]


def _reasoning(body: dict[str, Any], conversation: Conversation, dropped: list[str], emulated: list[str]) -> None:
    effort = conversation.effort
    if effort is not None and effort not in _EFFORTS:
        dropped.append("effort")
        effort = None
    off = conversation.thinking == "disabled"
    if off and effort not in (None, "none"):
        dropped.append("effort")
    if conversation.thinking is not None and not off:
        emulated.append("thinking_mode")  # a model reasons, or not, as its effort says
    reasoning: dict[str, Any] = {}
    if effort is not None or off:
        reasoning["effort"] = "none" if off else effort
    shown = conversation.thinking_display == "summarized" or (
        conversation.thinking is not None and not off and conversation.thinking_display is None)
    if shown:
        reasoning["summary"] = "auto"
    if reasoning:
        body["reasoning"] = reasoning
    include = [LOGPROBS] if conversation.extras.get("logprobs") is True else []
    if reasoning.get("effort", "") != "none" and reasoning:
        # Nothing is stored, so the next turn has to bring the reasoning along. Models that do not reason refuse this.
        include.append(ENCRYPTED)
    if include:
        body["include"] = include


def _text(body: dict[str, Any], conversation: Conversation) -> None:
    text: dict[str, Any] = {}
    if conversation.json_schema is not None:
        text["format"] = {"type": "json_schema", "name": "response", **conversation.json_schema}
    elif conversation.json_object:
        text["format"] = {"type": "json_object"}
    if (verbosity := conversation.extras.get("verbosity")) is not None:
        text["verbosity"] = verbosity
    if text:
        body["text"] = text


def _extras(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    extras = conversation.extras
    # OpenAI stores an answer for 30 days unless told otherwise.
    body["store"] = extras.get("store") is True
    for name, value in extras.items():
        if name in _DIRECT:
            body[name] = value
        elif name not in ("store", "verbosity", "logprobs"):
            dropped.append(name)


class _Items:
    """Renders the turns, noting what gets lost and what is put differently."""

    def __init__(self, messages: tuple[Message, ...], dropped: list[str], emulated: list[str]) -> None:
        self._dropped, self._emulated = dropped, emulated
        self._kinds: dict[str, str] = {}  # call id -> type of its output item
        self.out: list[dict[str, Any]] = []
        self.instructions: str | None = None
        for i, message in enumerate(messages):
            match message.role:
                case "system":
                    self._system(message, first=i == 0 and len(messages) > 1)
                case "user":
                    self._turn("user", message.parts)
                case "assistant":
                    self._turn("assistant", message.parts)

    def _system(self, message: Message, *, first: bool) -> None:
        texts: list[str] = []
        for part in message.parts:
            if isinstance(part, Text):
                self._note_cache(part)
                # The attribution line is for Anthropic, which strips it; elsewhere it would be prompt.
                if not part.text.startswith(_ATTRIBUTION):
                    texts.append(part.text)
            else:
                self._drop(part)
        if first and len(texts) == 1:
            self.instructions = texts[0]
        elif texts:
            self.out.append(_message("developer", [{"type": "input_text", "text": text} for text in texts]))

    def _turn(self, role: str, parts: tuple[Part, ...]) -> None:
        """The items of one turn, in order; neighbouring contents make one message."""
        content: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, ToolUse | ToolResult):
                self._note_cache(part)
            if (item := self._item(part)) is not None:
                self._flush(role, content)
                self.out.append(item)
            elif (piece := self._content(role, part)) is not None:
                content.append(piece)
        self._flush(role, content)
        if not parts:
            self.out.append({"role": role, "content": ""})

    def _flush(self, role: str, content: list[dict[str, Any]]) -> None:
        if content:
            self.out.append(_message(role, content[:]))
            content.clear()

    def _item(self, part: Part) -> dict[str, Any] | None:
        """The item that a part is of its own; None for content of a message and for what is lost."""
        match part:
            case ToolUse():
                return self._call(part)
            case ToolResult():
                return self._output(part)
            case Thinking() if part.encrypted is not None or _ours(part):
                return _reasoning_item(part)
            case Foreign(schema="responses", value=value) if not part.kind.startswith((PART, *PART_TYPES)):
                return value
            case _:
                return None

    def _call(self, part: ToolUse) -> dict[str, Any]:
        if part.namespace == builtin.BUILTIN and (call := builtin.write_call(part.name, part.arguments)) is not None:
            self._kinds[part.id] = part.name
            return {**call, "call_id": part.id, "status": "completed"}
        self._kinds[part.id] = part.kind
        item = {"type": CALL_TYPES[part.kind], "call_id": part.id, "name": part.name}
        if part.namespace is not None:
            item["namespace"] = part.namespace
        if part.kind == "custom":
            return {**item, "input": part.arguments}
        return {**item, "arguments": part.arguments or "{}"}

    def _output(self, part: ToolResult) -> dict[str, Any]:
        kind = self._kinds.get(part.id, "function")
        if kind in builtin.CALLS.values():
            texts = [piece.text for piece in part.parts if isinstance(piece, Text)]
            return builtin.write_output(kind, part.id, "\n".join(texts), part.is_error)
        content = [piece for given in part.parts if (piece := self._content("user", given)) is not None]
        if part.is_error:
            self._emulated.append("tool_result.is_error")
            _mark_error(content)
        plain = len(content) < 2 and all(piece["type"] == "input_text" for piece in content)
        output: Any = "".join(piece["text"] for piece in content) if plain else content
        return {"type": "custom_tool_call_output" if kind == "custom" else "function_call_output",
                "call_id": part.id, "output": output}

    def _content(self, role: str, part: Part) -> dict[str, Any] | None:
        match part:
            case Text(text=text):
                self._note_cache(part)
                if role == "assistant":
                    return {"type": "output_text", "text": text, "annotations": []}
                return {"type": "input_text", "text": text}
            case Image() if role != "assistant":
                self._note_cache(part)
                return _image(part)
            case Document() if role != "assistant":
                self._note_cache(part)
                return self._document(part)
            case Foreign(schema="responses", value=value):
                return value
            case Foreign(kind="input_audio", value=value) if role != "assistant":
                return value
            case Thinking():
                self._dropped.append("thinking")
                return None
            case _:
                self._drop(part)
                return None

    def _document(self, part: Document) -> dict[str, Any]:
        if part.text is not None:
            self._emulated.append("document.text")
            return {"type": "input_text", "text": part.text}
        named = {} if part.name is None else {"filename": part.name}
        if part.data is None:
            return {"type": "input_file", "file_url": part.url or "", **named}
        data = f"data:{part.media_type or 'application/pdf'};base64,{part.data}"
        return {"type": "input_file", "filename": "document.pdf", **named, "file_data": data}

    def _note_cache(self, part: Text | Image | Document | ToolUse | ToolResult) -> None:
        if part.cache is not None:
            self._dropped.append("cache_control")

    def _drop(self, part: Part) -> None:
        kind = part.kind if isinstance(part, Foreign) else type(part).__name__.lower()
        self._dropped.append(label("foreign", kind))


CALL_TYPES: dict[ToolKind, str] = {"function": "function_call", "custom": "custom_tool_call"}


def _mark_error(content: list[dict[str, Any]]) -> None:
    """Say in the text that a tool failed: its output has no field for that."""
    for piece in content:
        if piece["type"] == "input_text":
            piece["text"] = f"Error: {piece['text']}"
            return
    content.insert(0, {"type": "input_text", "text": "Error: "})


def _ours(part: Thinking) -> bool:
    """Whether it is an item that a Responses backend made, without encrypted content."""
    return part.id is not None and part.signature is None and part.redacted is None


def _reasoning_item(part: Thinking) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "reasoning", "summary": []}
    if part.id is not None:
        item["id"] = part.id
    if part.text:
        item["summary"] = [{"type": "summary_text", "text": part.text}]
    if part.encrypted is not None:
        item["encrypted_content"] = part.encrypted
    return item


def _message(role: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """A message; a single text is written as a string, which every server of this schema reads."""
    if len(content) == 1 and content[0].get("type") in ("input_text", "output_text"):
        return {"role": role, "content": content[0]["text"]}
    return {"role": role, "content": content}


def _image(part: Image) -> dict[str, Any]:
    url = part.url if part.data is None else f"data:{part.media_type or 'image/png'};base64,{part.data}"
    return {"type": "input_image", "image_url": url or "", "detail": part.detail or "auto"}
