"""Streams of plain text for a client: the completion APIs, whose chunks differ only in how a choice is written."""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core.conversation import StopReason, ThinkingDelta, ToolDelta, ToolStart
from extproc.schemas._codec import encode
from extproc.schemas._openai_answers import FINISH, render_usage
from extproc.schemas._stream_renderer import EventRenderer

TEXT_FINISH: dict[StopReason, str] = {**FINISH, "tool_use": "stop"}
"""A completion calls no tools."""


class Form(msgspec.Struct, frozen=True):
    """How one API writes a chunk: the bytes around a choice's text, and where usage stands.

    `choice_head` TEXT `choice_middle` FINISH_REASON `choice_tail` make a choice.
    """

    kind: str
    choice_head: bytes
    choice_middle: bytes
    choice_tail: bytes = b"}"
    usage_apart: bool = True
    """Usage comes in a chunk of its own, for those who ask; False: always with the finish reason."""


class TextStreamRenderer(EventRenderer):
    """Events in, chunks out. Thinking and tool calls have no place in a completion. The finish chunk, usage and
    [DONE] come at Done."""

    __slots__ = ("_fallback", "_form", "_head", "_include_usage", "_meta", "_prefix", "_tail")

    def __init__(
        self, form: Form, prefix: str, *, model: str, created: int, fallback_id: str, include_usage: bool
    ) -> None:
        super().__init__()
        self._form = form
        self._prefix = prefix
        self._meta = {"object": form.kind, "created": created, "model": model}
        self._fallback = fallback_id
        self._include_usage = include_usage and form.usage_apart
        self._head = b""
        self._tail = b'],"usage":null}\n\n' if self._include_usage else b"]}\n\n"

    def _start(self, identifier: str) -> bytes:
        self._begun(identifier)
        return b""

    def _text(self, text: str) -> bytes:
        return (self._head or self._begun()) + self._choice(text) + self._tail

    def _thinking(self, event: ThinkingDelta) -> bytes:
        return b""

    def _tool(self, event: ToolStart) -> bytes:
        return b""

    def _arguments(self, event: ToolDelta) -> bytes:
        return b""

    def _begun(self, identifier: str = "") -> bytes:
        if not self._head:
            own = identifier and identifier.startswith(self._prefix)
            meta = encode({"id": identifier if own else self._fallback, **self._meta})
            self._head = b"data: " + meta[:-1] + b',"choices":['
        return self._head

    def _choice(self, text: str, finish: bytes = b"null") -> bytes:
        form = self._form
        return form.choice_head + encode(text) + form.choice_middle + finish + form.choice_tail

    def _done(self) -> bytes:
        out = self._begun() + self._choice("", encode(TEXT_FINISH[self._reason]))
        usage: dict[str, Any] | None = render_usage(self._tokens)
        if usage is None:
            return out + self._tail + b"data: [DONE]\n\n"
        counts = b'],"usage":' + encode(usage) + b"}\n\n"
        if not self._form.usage_apart:
            out += counts
        elif self._include_usage:
            out += self._tail + self._head + counts
        else:
            out += self._tail
        return out + b"data: [DONE]\n\n"
