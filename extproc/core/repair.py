"""Tool calls that a local model's server left in the text of an answer (`leaked_calls.py`), turned back into calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from extproc.core.conversation import (
    Event,
    Start,
    Stop,
    TextDelta,
    Tool,
    ToolDelta,
    ToolStart,
    UsageReport,
)
from extproc.core.leaked_calls import CallReader, LeakedCall, Piece

_STOPPED_BY_ITSELF = ("end", "tool_use", "stop_sequence")


class ToolCallRepair:
    """A filter over the events of one answer. `repaired` counts the calls found in text.

    `tools` are those the provider was shown. `salt` (a request id, say) keeps call ids unique between answers of
    providers that give their answers no id.
    """

    def __init__(self, tools: tuple[Tool, ...], *, salt: str = "") -> None:
        self.repaired = 0
        self._tools = {tool.name: tool for tool in tools if tool.kind == "function"}
        self._reader = CallReader(self._tools)
        self._salt = salt
        self._answer_id = ""
        self._next_index = 0
        self._indices: dict[int, int] = {}

    def feed(self, event: Event) -> Sequence[Event]:
        """The events that take the place of `event`, in order; never raises."""
        if isinstance(event, TextDelta):
            return (event,) if self._reader.passes(event.text) else self._text(event)
        if isinstance(event, UsageReport) or not self._tools:
            return (event,)  # some providers send usage beside every piece of text: it must not cut a call in two
        if isinstance(event, Start):
            self._answer_id = event.id or self._answer_id
            return (event,)
        complete = isinstance(event, Stop) and event.reason in _STOPPED_BY_ITSELF
        return [*self._events(self._reader.end(complete=complete)), self._numbered(event)]

    def _text(self, event: TextDelta) -> Sequence[Event]:
        if not event.text or not self._tools:
            return (event,)
        out = self._reader.read(event.text)
        return (event,) if out == [event.text] else self._events(out)

    def _events(self, pieces: Iterable[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if isinstance(piece, LeakedCall):
                events += self._call(piece)
            else:
                events.append(TextDelta(piece))
        return events

    def _call(self, call: LeakedCall) -> tuple[Event, Event]:
        index, self._next_index = self._next_index, self._next_index + 1
        self.repaired += 1
        start = ToolStart(index=index, id=self._call_id(call), name=call.name)
        return start, ToolDelta(index=index, arguments=call.arguments)

    def _call_id(self, call: LeakedCall) -> str:
        seed = "\0".join((self._answer_id, self._salt, call.name, call.arguments)).encode("utf-8", "surrogatepass")
        return f"call_repaired_{self.repaired}_{hashlib.blake2b(seed, digest_size=8).hexdigest()}"

    def _numbered(self, event: Event) -> Event:
        """Calls that the provider announced itself get the next free index, once one of ours came before them."""
        if isinstance(event, ToolStart | ToolDelta):
            index = self._indices.get(event.index)
            if index is None:
                index = self._next_index if self.repaired else event.index
                self._indices[event.index] = index
                self._next_index = max(self._next_index, index + 1)
            return event if index == event.index else msgspec.structs.replace(event, index=index)
        if isinstance(event, Stop) and event.reason == "end" and self.repaired:
            return msgspec.structs.replace(event, reason="tool_use")
        return event
