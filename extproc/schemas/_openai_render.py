"""Neutral conversation -> OpenAI Chat Completions request."""

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
    Tool,
    ToolResult,
    ToolUse,
)
from extproc.core.errors import RequestError
from extproc.schemas._codec import encode_request, json_object, label, labels
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel

MAX_STOP = 4
_REASONING_MODELS = ("gpt-5", "o1", "o3", "o4")
"""They know max_completion_tokens only and refuse sampling parameters."""
_STRICT_MESSAGES = (
    "gpt-",
    "chatgpt",
    "o1",
    "o3",
    "o4",
    "mistral",
    "codestral",
    "devstral",
    "magistral",
    "ministral",
)
"""Their APIs refuse unknown message fields such as reasoning_content."""
_SYSTEM_ANYWHERE = ("gpt-", "chatgpt", "o1", "o3", "o4")
"""Many local chat templates raise on a system message that is not the first."""
_OWN_KINDS = frozenset({"input_audio", "file", "video_url"})
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_ATTRIBUTION = "x-anthropic-billing-header:"


def render_request(conversation: Conversation, target: Target) -> Rendered:
    """Render a chat completion request; raise RequestError when a value cannot be written."""
    dropped: list[str] = list(conversation.unmapped)
    body: dict[str, Any] = {
        "model": target.model,
        "messages": _Messages(target.model, dropped).render(conversation.messages),
    }
    _limits(body, conversation, target, dropped)
    _sampling(body, conversation, target, dropped)
    _tools(body, conversation, dropped)
    _format(body, conversation, dropped)
    if conversation.user is not None:
        # Longer ones are an agent's device and account ids, which are not for another provider.
        if len(conversation.user) <= 64:
            body["user"] = conversation.user
        else:
            dropped.append("user")
    if conversation.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return Rendered(encode_request(body), labels(dropped))


def patch_request(body: bytes, target: Target) -> bytes:
    """Replace the model, and make a stream report its usage; all else keeps its bytes.

    Raises:
        RequestError: the body is not an object or has a field twice.
    """
    fields = TopLevel(body)
    edits = {"model": msgspec.json.encode(target.model)}
    if fields.get("stream") == b"true":
        options = _usage_options(fields.get("stream_options"))
        if options is not None:
            edits["stream_options"] = options
    return fields.edit(edits)


def refuses(conversation: Conversation) -> tuple[str, ...]:
    """A request whose tools are all another provider's server tools, or that only warms a cache."""
    refused = ["max_tokens:0"] if conversation.max_tokens == 0 else []
    if conversation.tools and all(_is_foreign(tool) for tool in conversation.tools):
        refused += [label("tool", tool.name) for tool in conversation.tools]
    return labels(refused)


def _usage_options(raw: bytes | None) -> bytes | None:
    """stream_options with include_usage true; None when it is so already."""
    try:
        options = {} if raw is None else msgspec.json.decode(raw, type=dict[str, msgspec.Raw] | None) or {}
    except msgspec.ValidationError as exc:
        raise RequestError("stream_options: expected object", param="stream_options") from exc
    if bytes(options.get("include_usage", b"")) == b"true":
        return None
    options["include_usage"] = msgspec.Raw(b"true")
    return msgspec.json.encode(options)


def _limits(body: dict[str, Any], conversation: Conversation, target: Target, dropped: list[str]) -> None:
    limit = conversation.max_tokens
    if limit is not None:
        limit = limit if target.max_output is None else min(limit, target.max_output)
        reasoning = target.model.startswith(_REASONING_MODELS)
        body["max_completion_tokens" if reasoning else "max_tokens"] = limit
    if conversation.stop:
        body["stop"] = conversation.stop[:MAX_STOP]
        if len(conversation.stop) > MAX_STOP:
            dropped.append("stop_sequences")
    if conversation.n != 1:
        body["n"] = conversation.n


def _sampling(body: dict[str, Any], conversation: Conversation, target: Target, dropped: list[str]) -> None:
    for name, value in (("temperature", conversation.temperature), ("top_p", conversation.top_p)):
        if value is None:
            continue
        if target.model.startswith(_REASONING_MODELS):
            dropped.append(name)
        else:
            body[name] = value
    if conversation.top_k is not None:
        dropped.append("top_k")
    if conversation.seed is not None:
        body["seed"] = conversation.seed
    if conversation.effort in _EFFORTS:
        body["reasoning_effort"] = conversation.effort
    elif conversation.effort is not None:
        dropped.append("effort")
    if conversation.thinking_budget is not None:
        dropped.append("thinking_budget")


def _format(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    if conversation.json_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "response", **conversation.json_schema},
        }
    elif conversation.json_object:
        body["response_format"] = {"type": "json_object"}


def _is_foreign(tool: Tool) -> bool:
    """Whether a tool is provider-typed and not OpenAI's own `custom` kind."""
    return tool.foreign is not None and "custom" not in tool.foreign


def _tools(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    tools: list[Any] = []
    for tool in conversation.tools:
        if tool.cache is not None:
            dropped.append("cache_control")
        if _is_foreign(tool):
            dropped.append(label("tool", tool.name))
        else:
            tools.append(
                tool.foreign
                if tool.foreign is not None
                else {"type": "function", "function": _function(tool)}
            )
    if not tools:
        return
    body["tools"] = tools
    _tool_choice(body, conversation, dropped)
    if conversation.parallel_tools is not None:
        body["parallel_tool_calls"] = conversation.parallel_tools


def _tool_choice(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    choice = conversation.tool_choice
    if choice is None:
        return
    if choice.mode != "tool":
        body["tool_choice"] = "required" if choice.mode == "any" else choice.mode
        return
    named = next((tool for tool in conversation.tools if tool.name == choice.name), None)
    if named is not None and _is_foreign(named):
        dropped.append("tool_choice")
        return
    kind = "function" if named is None or named.foreign is None else "custom"
    body["tool_choice"] = {"type": kind, kind: {"name": choice.name}}


def _function(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


class _Messages:
    """Renders the turns, noting in `dropped` what gets lost."""

    def __init__(self, model: str, dropped: list[str]) -> None:
        self._dropped = dropped
        self._send_thinking = not model.startswith(_STRICT_MESSAGES)
        self._system_anywhere = model.startswith(_SYSTEM_ANYWHERE)
        self._out: list[dict[str, Any]] = []

    def render(self, messages: tuple[Message, ...]) -> list[dict[str, Any]]:
        """Leading system messages become one; every other message one or more."""
        lead = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        if text := self._system_text([part for message in messages[:lead] for part in message.parts]):
            self._out.append({"role": "system", "content": text})
        for message in messages[lead:]:
            match message.role:
                case "system":
                    self._late_system(message)
                case "user":
                    self._user(message)
                case "assistant":
                    self._assistant(message)
        return self._out

    def _system_text(self, parts: list[Part]) -> str:
        texts: list[str] = []
        for part in parts:
            if not isinstance(part, Text):
                self._drop(part)
                continue
            self._note_cache(part)
            # The attribution line is for Anthropic, which strips it; elsewhere it would be prompt.
            if part.text and not part.text.startswith(_ATTRIBUTION):
                texts.append(part.text)
        return "\n\n".join(texts)

    def _late_system(self, message: Message) -> None:
        if not (text := self._system_text(list(message.parts))):
            return
        if self._system_anywhere:
            self._out.append({"role": "system", "content": text})
        else:
            self._out.append({"role": "user", "content": f"<system-reminder>\n{text}\n</system-reminder>"})

    def _user(self, message: Message) -> None:
        """Tool results first, as tool messages; then one user message with all the rest."""
        rest: list[Part] = []
        shown: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                shown += self._tool_message(part)
            else:
                rest.append(part)
        content = [item for part in (*shown, *rest) if (item := self._user_part(part)) is not None]
        if len(content) == 1 and content[0]["type"] == "text":
            self._out.append({"role": "user", "content": content[0]["text"]})
        elif content:
            self._out.append({"role": "user", "content": content})
        elif not message.parts or any(isinstance(part, Text) for part in rest):
            self._out.append({"role": "user", "content": ""})

    def _tool_message(self, result: ToolResult) -> list[Part]:
        """Append a tool message; return the parts that only a user message can show."""
        self._note_cache(result)
        lines: list[str] = []
        shown: list[Part] = []
        for part in result.parts:
            self._note_cache(part)
            text = None if isinstance(part, Image) else part.text
            if text is None:
                lines.append("[image]" if isinstance(part, Image) else "[document]")
                shown.append(part)
            else:
                lines.append(text)
        text = "\n".join(lines)
        self._out.append(
            {
                "role": "tool",
                "tool_call_id": result.id,
                "content": f"Error: {text}" if result.is_error else text,
            }
        )
        return shown

    def _user_part(self, part: Part) -> dict[str, Any] | None:
        match part:
            case Text(text=text):
                self._note_cache(part)
                return {"type": "text", "text": text} if text else None
            case Image():
                self._note_cache(part)
                return _image(part)
            case Document():
                self._note_cache(part)
                return self._document(part)
            case Foreign(kind=kind, value=value) if kind in _OWN_KINDS:
                return value
            case _:
                self._drop(part)
                return None

    def _document(self, part: Document) -> dict[str, Any] | None:
        if part.text is not None:
            return {"type": "text", "text": part.text} if part.text else None
        if part.data is None:
            self._dropped.append("document:url")
            return {"type": "text", "text": "[document]"}
        media_type = part.media_type or "application/pdf"
        return {
            "type": "file",
            "file": {
                "filename": part.name or "document.pdf",
                "file_data": f"data:{media_type};base64,{part.data}",
            },
        }

    def _assistant(self, message: Message) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Any] = []
        for part in message.parts:
            match part:
                case Text(text=text):
                    self._note_cache(part)
                    texts.append(text)
                case Thinking(text=text):
                    self._thinking(part, thoughts)
                case ToolUse():
                    self._note_cache(part)
                    calls.append(
                        {
                            "id": part.id,
                            "type": "function",
                            "function": {"name": part.name, "arguments": _arguments(part.arguments)},
                        }
                    )
                case Foreign(kind="custom_tool_call", value=value):
                    calls.append({"id": value["id"], "type": "custom", "custom": value["custom"]})
                case _:
                    self._drop(part)
        self._append_assistant("".join(texts), "".join(thoughts), calls)

    def _append_assistant(self, text: str, thought: str, calls: list[Any]) -> None:
        if not text and not calls:
            return
        turn: dict[str, Any] = {"role": "assistant", "content": text or None}
        if thought:
            turn["reasoning_content"] = thought
        if calls:
            turn["tool_calls"] = calls
        self._out.append(turn)

    def _thinking(self, part: Thinking, thoughts: list[str]) -> None:
        if self._send_thinking and part.text:
            thoughts.append(part.text)
        else:
            self._dropped.append("thinking")

    def _note_cache(self, part: Text | Image | Document | ToolUse | ToolResult) -> None:
        if part.cache is not None:
            self._dropped.append("cache_control")

    def _drop(self, part: Part) -> None:
        kind = part.kind if isinstance(part, Foreign) else type(part).__name__.lower()
        self._dropped.append(label("foreign", kind))


def _arguments(text: str) -> str:
    """History must hold a JSON object: some chat templates parse it and fail on anything else."""
    return (
        text if json_object(text) else "{}" if not text.strip() else encode_request({"text": text}).decode()
    )


def _image(part: Image) -> dict[str, Any]:
    url = part.url if part.data is None else f"data:{part.media_type or 'image/png'};base64,{part.data}"
    image: dict[str, Any] = {"url": url or ""}
    if part.detail is not None:
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}
