"""Ollama chat answers, whole and streamed -> events. A stream is lines of the form that a whole answer has, too.

Source: github.com/ollama/ollama, api/types.go (ChatResponse, Metrics, ToolCall).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from extproc.core.conversation import (
    Done,
    Event,
    Failure,
    Start,
    Stop,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageReport,
)
from extproc.core.errors import UpstreamError
from extproc.core.usage import Tokens, count
from extproc.schemas._codec import ANY, decode_answer
from extproc.schemas._openai_answers import made_id
from extproc.schemas._problems import read_failure
from extproc.wire.sse import ServerSentEvent

_NO_ANSWER = frozenset({"load", "unload"})
"""The request only put the model into memory, or out of it."""


class _Function(msgspec.Struct):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Answer(msgspec.Struct):
    model: str | None = None
    created_at: str | None = None
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)
_TEXT = msgspec.json.Decoder(str)


class OllamaParser:
    """Lines in, events out. Calls are whole; thinking, text and calls may stand in any line, the last one too."""

    __slots__ = ("_calls", "_seed", "_started")

    def __init__(self) -> None:
        self._calls = 0
        self._seed = ""
        self._started = False

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Return the events of one line; raise UpstreamError when it makes no sense."""
        return self.take(event.data) if event.data else ()

    def take(self, data: bytes) -> list[Event]:
        """The events of one line or of a whole answer."""
        answer = decode_answer(_ANSWER, data)
        if answer.error:
            return [read_failure(decode_answer(ANY, data), data)]
        if answer.message is None and not answer.done:
            raise UpstreamError("the backend's answer has no message")
        if answer.done and answer.done_reason in _NO_ANSWER:
            return [Failure("unavailable", "the backend loaded or unloaded its model and gave no answer", 503, data)]
        events: list[Event] = []
        if not self._started:
            self._started = True
            # There is no answer id: the time of the first line makes call ids unique over a conversation's turns.
            self._seed = re.sub(r"[^0-9]", "", answer.created_at or "")
            events.append(Start("", answer.model or ""))
        if (message := answer.message) is not None:
            if message.thinking:
                events.append(ThinkingDelta(message.thinking))
            if message.content:
                events.append(TextDelta(message.content))
            for call in message.tool_calls or ():
                events += self._call(call)
        return events + self._end(answer) if answer.done else events

    def _call(self, call: _Call) -> tuple[Event, ...]:
        index = self._calls
        self._calls += 1
        start = ToolStart(index, call.id or made_id(self._seed, index), call.function.name)
        return start, ToolDelta(index, _arguments(call.function.arguments))

    def _end(self, answer: _Answer) -> list[Event]:
        # Old servers leave the count out for a cached prompt; a prompt of no tokens does not exist.
        tokens = Tokens(input=count(answer.prompt_eval_count) or None, output=count(answer.eval_count))
        reason = "length" if answer.done_reason == "length" else "tool_use" if self._calls else "end"
        return [UsageReport(tokens), Stop(reason), Done()]


def parse_response(body: bytes) -> Sequence[Event]:
    """The events of a whole answer, ending in Done, or in Failure for an error object.

    Raises:
        UpstreamError: the body is no answer.
    """
    events = OllamaParser().take(body)
    if not isinstance(events[-1], Done | Failure):
        raise UpstreamError("the backend's answer is not complete")
    return events


def _arguments(raw: msgspec.Raw) -> str:
    """The argument object's own bytes; a text that holds them is opened."""
    data = bytes(raw)
    if data.startswith(b'"'):
        return decode_answer(_TEXT, data)
    return "{}" if data == b"null" else data.decode("utf-8", "replace")
