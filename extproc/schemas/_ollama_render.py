"""Neutral conversation -> Ollama chat request.

Source: github.com/ollama/ollama, api/types.go (ChatRequest, Message, Options) and docs/api.md.
"""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core.conversation import (
    Conversation,
    Document,
    Image,
    Message,
    Part,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)
from extproc.schemas._codec import FOREIGN_ERRORS, label, labels
from extproc.schemas._loss import PartsRenderer, for_anthropic
from extproc.schemas.base import Rendered, Target

_LEVELS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high",
           "max": "high"}
"""Efforts of the models that think at a level, which cannot be turned off; to all others thinking is on or off."""
_LEVELLED = "gpt-oss"
_OPTIONS = {"min_p": "min_p", "repetition_penalty": "repeat_penalty", "presence_penalty": "presence_penalty",
            "frequency_penalty": "frequency_penalty"}
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
_NO_LIMIT = -1


class _Lost(msgspec.Struct):
    """Names of what was dropped and of what was put differently."""

    dropped: list[str]
    emulated: list[str]


def render_request(conversation: Conversation, target: Target) -> Rendered:
    """Render a chat request."""
    lost = _Lost(list(conversation.unmapped), [])
    fields: dict[str, Any] = {
        "model": target.model,
        "messages": _Messages(lost.dropped, lost.emulated).render(conversation.messages),
        "stream": conversation.stream,
        "options": _options(conversation, target, lost),
        # Without both an overlong prompt is cut in silence: truncate drops old messages, shift cuts tokens.
        "truncate": False,
        "shift": False,
    }
    _tools(fields, conversation, lost)
    _think(fields, conversation, target, lost)
    if conversation.json_schema is not None:
        fields["format"] = conversation.json_schema.get("schema") or "json"
        if conversation.json_schema.get("description"):
            lost.dropped.append("response_format.description")
    elif conversation.json_object:
        fields["format"] = "json"
    return Rendered(fields, labels(lost.dropped), labels(lost.emulated))


def refuses(conversation: Conversation) -> tuple[str, ...]:
    """Images that would have to be fetched, several choices, an empty answer, and only server tools."""
    refused = ["n"] if conversation.n > 1 else []
    if conversation.max_tokens == 0:
        refused.append("max_tokens:0")
    if any(isinstance(part, Image) and part.data is None for part in _shown(conversation)):
        refused.append("image:url")
    if conversation.tools and all(tool.foreign is not None for tool in conversation.tools):
        refused += [label("tool", tool.name) for tool in conversation.tools]
    return labels(refused)


def _shown(conversation: Conversation) -> list[Part]:
    """All parts, also those within tool results."""
    parts = [part for message in conversation.messages for part in message.parts]
    return parts + [inner for part in parts if isinstance(part, ToolResult) for inner in part.parts]


def _options(conversation: Conversation, target: Target, lost: _Lost) -> dict[str, Any]:
    limit = conversation.max_tokens
    if limit is not None and target.max_output is not None:
        limit = min(limit, target.max_output)
    options: dict[str, Any] = {"num_predict": _NO_LIMIT if limit is None else limit}
    for name, value in (
        ("num_ctx", target.context),
        ("temperature", conversation.temperature),
        ("top_p", conversation.top_p),
        ("top_k", conversation.top_k),
        ("seed", conversation.seed),
        ("stop", conversation.stop or None),
    ):
        if value is not None:
            options[name] = value
    for name, value in conversation.extras.items():
        if value is None:
            continue
        if name in _OPTIONS:
            options[_OPTIONS[name]] = value
        else:
            lost.dropped.append(name)
    if conversation.user is not None:
        lost.dropped.append("user")
    if conversation.system_cache:
        lost.dropped.append("cache_control")
    return options


def _think(fields: dict[str, Any], conversation: Conversation, target: Target, lost: _Lost) -> None:
    effort = conversation.effort
    if effort is None and conversation.thinking is not None:
        effort = "none" if conversation.thinking == "disabled" else "medium"
    if conversation.thinking_budget is not None:
        effort = effort or "medium"
        lost.dropped.append("thinking_budget")
    if conversation.thinking_display is not None:
        lost.dropped.append("thinking_display")
    if effort is None:
        return
    if _LEVELLED not in target.model.lower():
        fields["think"] = effort != "none"
    elif effort in _LEVELS:
        fields["think"] = _LEVELS[effort]
        if effort == "none":
            lost.emulated.append("effort")
    else:
        lost.dropped.append("effort")


def _untellable(tool: Tool) -> bool:
    return tool.foreign is not None or tool.kind == "custom"


def _tools(fields: dict[str, Any], conversation: Conversation, lost: _Lost) -> None:
    choice = conversation.tool_choice
    tools: list[dict[str, Any]] = []
    for tool in _offered(conversation, lost):
        if tool.cache is not None:
            lost.dropped.append("cache_control")
        if _untellable(tool):
            lost.dropped.append(label("tool", tool.name))
        else:
            tools.append({"type": "function", "function": _function(tool, lost)})
    if tools:
        fields["tools"] = tools
    if choice is not None and choice.mode in ("any", "tool"):
        lost.dropped.append("tool_choice")
    if conversation.parallel_tools is False:
        lost.dropped.append("parallel_tool_calls")


def _offered(conversation: Conversation, lost: _Lost) -> tuple[Tool, ...]:
    """The tools to show. There is no tool choice: what must not be called is not shown, and a tool that must be
    called is shown alone."""
    choice, tools = conversation.tool_choice, conversation.tools
    if choice is None or not tools:
        return tools
    if choice.mode == "none":
        lost.emulated.append("tool_choice")
        return ()
    if choice.allowed:
        lost.emulated.append("tool_choice.allowed_tools")
        return tuple(tool for tool in tools if tool.name in choice.allowed)
    named = tuple(tool for tool in tools if choice.mode == "tool" and tool.name == choice.name)
    return named or tools


def _function(tool: Tool, lost: _Lost) -> dict[str, Any]:
    if tool.strict:
        lost.dropped.append("tools.strict")
    lost.dropped += [f"tools.{name}" for name in tool.extra or () if name != "type"]
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or _NO_PARAMETERS
    return function


class _Messages(PartsRenderer):
    """Renders the turns. The results of a turn's calls name their tools, which the calls before them tell."""

    def __init__(self, dropped: list[str], emulated: list[str]) -> None:
        super().__init__(dropped, emulated)
        self._called: dict[str, str] = {}
        self._out: list[dict[str, Any]] = []

    def render(self, messages: tuple[Message, ...]) -> list[dict[str, Any]]:
        """One message for each turn, and one before it for each tool result."""
        for message in messages:
            if message.role == "assistant":
                self._assistant(message)
            elif message.role == "user":
                self._user(message)
            else:
                self._system(message)
        return self._out

    def _system(self, message: Message) -> None:
        texts: list[str] = []
        for part in message.parts:
            if not isinstance(part, Text):
                self._drop(part)
                continue
            self._note_cache(part)
            if part.text and not for_anthropic(part.text):
                texts.append(part.text)
        if texts:
            self._out.append({"role": "system", "content": "\n\n".join(texts)})

    def _user(self, message: Message) -> None:
        rest: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                rest += self._tool_message(part)
        rest += [part for part in message.parts if not isinstance(part, ToolResult)]
        texts, images = self._content(rest)
        if not texts and not images and message.parts and not any(isinstance(part, Text) for part in rest):
            return
        turn: dict[str, Any] = {"role": "user", "content": "\n\n".join(texts)}
        if images:
            turn["images"] = images
        self._out.append(turn)

    def _content(self, parts: list[Part]) -> tuple[list[str], list[str]]:
        texts: list[str] = []
        images: list[str] = []
        for part in parts:
            match part:
                case Text(text=text):
                    self._note_cache(part)
                    texts += [text] if text else []
                case Image(data=str(data)):
                    self._note_cache(part)
                    images.append(data)
                    if part.detail not in (None, "auto"):
                        self._dropped.append("image.detail")
                case Image():
                    self._dropped.append("image:url")
                    texts.append("[image]")
                case Document():
                    self._note_cache(part)
                    texts.append(self._document(part))
                case _:
                    self._drop(part)
        return texts, images

    def _document(self, part: Document) -> str:
        if part.text is not None:
            self._emulated.append("document.text")
            return part.text
        self._dropped.append("document")
        return "[document]"

    def _tool_message(self, result: ToolResult) -> list[Part]:
        """Append a tool message; return its images, which a tool message cannot show."""
        self._note_cache(result)
        lines: list[str] = []
        images: list[Part] = []
        for part in result.parts:
            if isinstance(part, Image):
                lines.append("[image]")
                images.append(part)
                continue
            self._note_cache(part)
            lines.append(part.text if isinstance(part, Text) else self._document(part))
        if images:
            self._emulated.append("tool_result.images")
        text = "\n".join(lines)
        if result.is_error:
            text = f"Error: {text}"
            self._emulated.append("tool_result.is_error")
        turn = {"role": "tool", "content": text, "tool_call_id": result.id}
        if (name := self._called.get(result.id)) is not None:
            turn["tool_name"] = name
        self._out.append(turn)
        return images

    def _assistant(self, message: Message) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for part in message.parts:
            match part:
                case Text(text=text):
                    self._note_cache(part)
                    texts.append(text)
                case Thinking():
                    self._thinking(part, thoughts)
                case ToolUse():
                    calls.append(self._call(part))
                case _:
                    self._drop(part)
        turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if thoughts:
            turn["thinking"] = "".join(thoughts)
        if calls:
            turn["tool_calls"] = calls
        if turn["content"] or len(turn) > 2:
            self._out.append(turn)

    def _thinking(self, part: Thinking, thoughts: list[str]) -> None:
        if part.text:
            thoughts.append(part.text)
            if part.signature is not None or part.encrypted is not None:
                self._dropped.append("thinking.signature")
        elif part.redacted or part.signature or part.encrypted:
            self._dropped.append("thinking")

    def _call(self, part: ToolUse) -> dict[str, Any]:
        self._note_cache(part)
        self._called[part.id] = part.name
        return {"id": part.id, "function": {"name": part.name, "arguments": self._arguments(part.arguments)}}

    def _arguments(self, text: str) -> dict[str, Any]:
        """The object itself, its values with their exact bytes; text that is none becomes the value of one."""
        try:
            return _OBJECT.decode(text)
        except FOREIGN_ERRORS:
            if not text.strip():
                return {}
            self._emulated.append("tool_calls.arguments")
            return {"text": text}
