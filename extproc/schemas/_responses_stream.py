"""OpenAI Responses streams -> neutral events. What an event is says the `type` in its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from extproc.core.conversation import (
    Event,
    Start,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
)
from extproc.schemas._codec import ANY, decode_answer
from extproc.schemas._problems import read_failure
from extproc.schemas._responses_answers import Response, read_end, read_item, read_output, text_of, tool_start
from extproc.schemas._responses_thoughts import PART_BREAK
from extproc.wire.sse import ServerSentEvent

_TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed",
             "response.cancelled": "cancelled"}
_CALLS = ("function_call", "custom_tool_call")


class _Event(msgspec.Struct):
    type: str = ""
    output_index: int | None = None
    summary_index: int | None = None
    content_index: int | None = None
    delta: Any = None
    item: dict[str, Any] | None = None
    response: Response | None = None
    error: Any = None


class _Open(msgspec.Struct):
    """An output item underway: the number of its call, whether its text came in deltas, and of which part."""

    number: int = -1
    fed: bool = False
    section: int = 0
    channel: str = ""


_EVENT = msgspec.json.Decoder(_Event)


class ResponsesStreamParser:
    """Typed events in, neutral events out. Items are told apart by their output_index."""

    __slots__ = ("_calls", "_items", "_over", "_refused", "_started", "_told")

    def __init__(self) -> None:
        self._items: dict[int, _Open] = {}
        self._calls = 0
        self._told = False  # whether any item was seen, so that the terminal event's copies are not told again
        self._refused = False
        self._started = False
        self._over = False

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Return the events of one SSE event; raise UpstreamError when it makes no sense."""
        data = event.data
        if not data or self._over or data.startswith(b"[DONE]"):
            return ()
        wire = decode_answer(_EVENT, data)
        match wire.type:
            case "response.output_text.delta" | "response.refusal.delta":
                return self._text(wire)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                return self._arguments(wire)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._thought(wire)
            case "response.output_item.added":
                return self._added(wire)
            case "response.output_item.done":
                return self._done(wire)
            case "response.created" | "response.queued" | "response.in_progress":
                return self._start(wire.response)
            case "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled":
                return self._end(wire, data)
            case "error":
                return self._failure(data)
            case _:
                # An error object of no type is how imitators tell one; other events are not needed or not known yet.
                return self._failure(data) if wire.error and not wire.type else ()

    def _start(self, response: Response | None) -> tuple[Event, ...]:
        if self._started or response is None:
            return ()
        self._started = True
        return (Start(response.id or "", response.model or ""),)

    def _open(self, wire: _Event) -> _Open:
        self._told = True
        return self._items.setdefault(wire.output_index or 0, _Open())

    def _text(self, wire: _Event) -> tuple[Event, ...]:
        self._open(wire).fed = True
        self._refused = self._refused or wire.type == "response.refusal.delta"
        return (TextDelta(wire.delta),) if isinstance(wire.delta, str) and wire.delta else ()

    def _arguments(self, wire: _Event) -> tuple[Event, ...]:
        item = self._open(wire)
        if item.number < 0 or not isinstance(wire.delta, str) or not wire.delta:
            return ()  # of a call that was not announced: its finished item tells all
        item.fed = True
        return (ToolDelta(item.number, wire.delta),)

    def _thought(self, wire: _Event) -> tuple[Event, ...]:
        item = self._open(wire)
        item.channel = item.channel or wire.type
        if item.channel != wire.type or not isinstance(wire.delta, str) or not wire.delta:
            return ()  # the summary of a text that is told itself
        section = wire.summary_index if wire.summary_index is not None else wire.content_index or 0
        text = PART_BREAK + wire.delta if item.fed and section > item.section else wire.delta
        item.fed, item.section = True, section
        return (ThinkingDelta(text),)

    def _added(self, wire: _Event) -> tuple[Event, ...]:
        given = wire.item
        if given is None:
            return ()
        item = self._items[wire.output_index or 0] = _Open()
        self._told = True
        if given.get("type") not in _CALLS or not text_of(given, "name"):
            return ()
        item.number = self._calls
        self._calls += 1
        return (tool_start(given, item.number),)

    def _done(self, wire: _Event) -> Sequence[Event]:
        """Tell of a finished item what its deltas did not."""
        if wire.item is None:
            return ()
        item = self._open(wire)
        content = read_item(wire.item, self._calls if item.number < 0 else item.number)
        self._refused = self._refused or content.refused
        if content.call and item.number < 0:
            self._calls += 1
            return content.events
        events = content.events
        if item.number >= 0:
            events = [event for event in events if not isinstance(event, ToolStart)]
        return [event for event in events if not _told_text(event)] if item.fed else events

    def _end(self, wire: _Event, data: bytes) -> Sequence[Event]:
        self._over = True
        response = wire.response or Response()
        response.status = _TERMINAL[wire.type]
        events = list(self._start(response))
        if not self._told and response.status in ("completed", "incomplete"):
            content = read_output(response)
            events += content.events
            self._calls, self._refused = int(content.call), content.refused
        return events + read_end(response, has_tools=self._calls > 0, refused=self._refused, raw=data)

    def _failure(self, data: bytes) -> tuple[Event, ...]:
        self._over = True
        return (read_failure(decode_answer(ANY, data), data),)


def _told_text(event: Event) -> bool:
    return isinstance(event, TextDelta | ToolDelta) or (isinstance(event, ThinkingDelta) and bool(event.text))
