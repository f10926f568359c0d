"""Neutral messages -> OpenAI Chat Completions messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
from extproc.schemas._codec import encode_request, json_object
from extproc.schemas._loss import PartsRenderer, for_anthropic

Item = dict[str, Any]


class Messages(PartsRenderer):
    """Renders the turns."""

    def __init__(self, dropped: list[str], emulated: list[str]) -> None:
        super().__init__(dropped, emulated)
        self._out: list[Item] = []

    def render(self, messages: tuple[Message, ...]) -> list[Item]:
        """Leading system messages become one; every other message one or more."""
        lead = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        self._system(part for message in messages[:lead] for part in message.parts)
        for message in messages[lead:]:
            match message.role:
                case "system":
                    self._system(message.parts)
                case "user":
                    self._user(message)
                case "assistant":
                    self._assistant(message)
        return self._out

    def _system(self, parts: Iterable[Part]) -> None:
        content: list[Any] = []
        for part in parts:
            match part:
                case Text(text=text):
                    self._note_cache(part)
                    if text and not for_anthropic(text):
                        content.append(text)
                case Foreign(schema="openai", value=value):
                    content.append(value)
                case _:
                    self._drop(part)
        if content:
            self._out.append({"role": "system", "content": _joined(content, "\n\n")})

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
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
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
            text = None if isinstance(part, Image) else part.text
            if text is None:
                kind = "image" if isinstance(part, Image) else "document"
                lines.append(f"[{kind}]")
                shown.append(part)
                self._emulated.append(f"tool_result.{kind}s")
            else:
                self._note_cache(part)
                lines.append(text)
        text = "\n".join(lines)
        if result.is_error:
            text = f"Error: {text}"
            self._emulated.append("tool_result.is_error")
        self._out.append({"role": "tool", "tool_call_id": result.id, "content": text})
        return shown

    def _user_part(self, part: Part) -> Item | None:
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
            case Foreign(schema="openai", value=value):
                return value
            case _:
                self._drop(part)
                return None

    def _document(self, part: Document) -> Item | None:
        if part.text is not None:
            self._emulated.append("document.text")
            return {"type": "text", "text": part.text} if part.text else None
        if part.data is None:
            self._dropped.append("document:url")
            return {"type": "text", "text": "[document]"}
        media_type = part.media_type or "application/pdf"
        file = {"filename": part.name or "document.pdf", "file_data": f"data:{media_type};base64,{part.data}"}
        return {"type": "file", "file": file}

    def _assistant(self, message: Message) -> None:
        content: list[Any] = []
        thoughts: list[str] = []
        calls: list[Item] = []
        for part in message.parts:
            match part:
                case Text(text=text):
                    self._note_cache(part)
                    content.append(text)
                case Thinking():
                    self._thinking(part, thoughts)
                case ToolUse():
                    self._note_cache(part)
                    calls.append(self._call(part))
                case Foreign(schema="openai", value=value):
                    content.append(value)
                case _:
                    self._drop(part)
        self._append_assistant(_joined(content, ""), "".join(thoughts), calls)

    def _append_assistant(self, content: Any, thought: str, calls: list[Item]) -> None:
        """An assistant turn; one that holds thinking alone stays, because its provider may ask for it back."""
        if not content and not calls and not thought:
            return
        turn: Item = {"role": "assistant", "content": content or (None if calls else "")}
        if thought:
            turn["reasoning_content"] = thought
        if calls:
            turn["tool_calls"] = calls
        self._out.append(turn)

    def _call(self, part: ToolUse) -> Item:
        if part.kind == "custom":
            custom = {"name": part.name, "input": part.arguments}
            return {"id": part.id, "type": "custom", "custom": custom}
        function = {"name": part.name, "arguments": self._arguments(part.arguments)}
        return {"id": part.id, "type": "function", "function": function}

    def _arguments(self, text: str) -> str:
        """History must hold a JSON object: some chat templates parse it and fail on anything else."""
        if json_object(text):
            return text
        if not text.strip():
            return "{}"
        self._emulated.append("tool_calls.arguments")
        return encode_request({"text": text}).decode()

    def _thinking(self, part: Thinking, thoughts: list[str]) -> None:
        if part.text:
            thoughts.append(part.text)
        if part.redacted is not None or (not part.text and (part.signature or part.encrypted)):
            self._dropped.append("thinking")
        elif part.signature is not None or part.encrypted is not None:
            self._dropped.append("thinking.signature")


def _joined(content: list[Any], separator: str) -> Any:
    """One string, or a list of parts when some are not text."""
    if all(isinstance(item, str) for item in content):
        return separator.join(content)
    return [{"type": "text", "text": item} if isinstance(item, str) else item for item in content]


def _image(part: Image) -> Item:
    url = part.url if part.data is None else f"data:{part.media_type or 'image/png'};base64,{part.data}"
    image: Item = {"url": url or ""}
    if part.detail is not None:
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}
