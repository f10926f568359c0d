"""OpenAI Chat Completions streams, both directions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from extproc.core.conversation import (
    Done,
    Event,
    Failure,
    Start,
    Stop,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolKind,
    ToolStart,
    UsageReport,
)
from extproc.core.usage import Tokens
from extproc.schemas._codec import ANY, decode_answer, encode
from extproc.schemas._openai_answers import (
    CHUNK,
    FINISH,
    CallDelta,
    Chunk,
    answer_id,
    is_error,
    made_id,
    read_message,
    read_report,
    read_stop,
    render_usage,
)
from extproc.schemas._problems import read_failure
from extproc.wire.sse import ServerSentEvent


class _Call(msgspec.Struct):
    """A tool call underway; `number` is its neutral index once it was announced."""

    id: str = ""
    name: str = ""
    waiting: str = ""
    number: int = -1
    kind: ToolKind = "function"


class OpenAIStreamParser:
    """Chunks in, events out. Tool calls accumulate by their wire index, never by id."""

    __slots__ = ("_announced", "_calls", "_id", "_started")

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._announced = 0
        self._started = False
        self._id = ""

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Return the events of one chunk; raise UpstreamError when it makes no sense."""
        data = event.data
        if not data:
            return ()
        if data.startswith(b"[DONE]"):
            return (*self._announce_all(), Done())
        chunk = decode_answer(CHUNK, data)
        if is_error(chunk):
            return (read_failure(decode_answer(ANY, data), data),)
        return self._chunk(chunk, data)

    def _chunk(self, chunk: Chunk, data: bytes) -> list[Event]:
        events: list[Event] = []
        if not self._started and (chunk.choices or chunk.id):
            self._started, self._id = True, chunk.id or ""
            events.append(Start(self._id, chunk.model or ""))
        for choice in chunk.choices or ():
            if choice.index:
                continue
            if (delta := choice.delta or choice.message) is not None:
                events += read_message(delta)
                for call in delta.tool_calls or ():
                    events += self._call(call)
            if choice.finish_reason:
                events += self._announce_all()
                events.append(read_stop(choice.finish_reason, bool(self._calls), data))
        if chunk.usage is not None and (report := read_report(chunk)) is not None:
            events.append(report)
        return events

    def _call(self, delta: CallDelta) -> list[Event]:
        call = self._calls.setdefault(self._index(delta), _Call())
        call.id = call.id or delta.id or ""
        call.name = call.name or delta.name
        call.waiting += delta.text
        if delta.custom is not None:
            call.kind = "custom"
        if call.number < 0 and not (call.id and call.name):
            return []
        return self._announce(call)

    def _index(self, delta: CallDelta) -> int:
        """The wire index; a server that sends none starts a new call with each new id."""
        if delta.index is not None:
            return delta.index
        last = max(self._calls, default=-1)
        fresh = last < 0 or (delta.id and self._calls[last].id not in ("", delta.id))
        return last + 1 if fresh else last

    def _announce(self, call: _Call) -> list[Event]:
        events: list[Event] = []
        if call.number < 0:
            call.number = self._announced
            self._announced += 1
            identifier = call.id or made_id(self._id, call.number)
            events.append(ToolStart(call.number, identifier, call.name, call.kind))
        if call.waiting:
            events.append(ToolDelta(call.number, call.waiting))
            call.waiting = ""
        return events

    def _announce_all(self) -> list[Event]:
        """Announce the calls that never got an id (or a name): nothing more will come."""
        return [event for call in self._calls.values() if call.number < 0 for event in self._announce(call)]


class OpenAIStreamRenderer:
    """Events in, chunks out. The finish chunk, the usage chunk and [DONE] come at Done."""

    __slots__ = (
        "_custom",
        "_fallback",
        "_head",
        "_include_usage",
        "_meta",
        "_over",
        "_stop",
        "_tail",
        "_tokens",
        "_tools",
    )

    def __init__(self, *, model: str, created: int, fallback_id: str, include_usage: bool) -> None:
        self._fallback = fallback_id
        self._meta = {"object": "chat.completion.chunk", "created": created, "model": model}
        self._include_usage = include_usage
        self._head = b""
        self._tail = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._tokens = Tokens()
        self._stop: StopReason | None = None
        self._tools = False
        self._custom: set[int] = set()
        self._over = False

    def feed(self, event: Event) -> bytes:
        """Return the chunks of one event; nothing after Done or Failure."""
        if self._over:
            return b""
        match event:
            case TextDelta(text=text):
                return self._delta({"content": text}) if text else b""
            case ThinkingDelta(text=text):
                return self._delta({"reasoning_content": text}) if text else b""
            case ToolDelta(index=index, arguments=arguments):
                return self._call(index, arguments)
            case ToolStart():
                return self._tool(event)
            case UsageReport(tokens=tokens):
                self._tokens = self._tokens.merged(tokens)
            case Stop(reason=reason):
                self._stop = reason
            case Start(id=identifier):
                return self._start(identifier)
            case Done():
                return self._done()
            case Failure():
                self._over = True
        return b""

    def _start(self, identifier: str) -> bytes:
        if self._head:
            return b""
        meta = encode({"id": answer_id(identifier, self._fallback), **self._meta})
        self._head = b"data: " + meta[:-1] + b',"choices":[{"index":0,"delta":'
        return self._delta({"role": "assistant", "content": ""})

    def _delta(self, delta: object, finish: bytes = b"null") -> bytes:
        first = b"" if self._head else self._start("")
        return first + self._head + encode(delta) + b',"finish_reason":' + finish + self._tail

    def _tool(self, event: ToolStart) -> bytes:
        self._tools = True
        call: dict[str, object] = {"index": event.index, "id": event.id, "type": event.kind}
        if event.kind == "custom":
            self._custom.add(event.index)
            call["custom"] = {"name": event.name, "input": ""}
        else:
            call["function"] = {"name": event.name, "arguments": ""}
        return self._delta({"tool_calls": [call]})

    def _call(self, index: int, text: str) -> bytes:
        inner = {"custom": {"input": text}} if index in self._custom else {"function": {"arguments": text}}
        return self._delta({"tool_calls": [{"index": index, **inner}]})

    def _done(self) -> bytes:
        self._over = True
        reason = self._stop or ("tool_use" if self._tools else "end")
        out = self._delta({}, encode(FINISH[reason]))
        usage = render_usage(self._tokens) if self._include_usage else None
        if usage is not None:
            out += (
                self._head.replace(b'[{"index":0,"delta":', b"[]") + b',"usage":' + encode(usage) + b"}\n\n"
            )
        return out + b"data: [DONE]\n\n"
