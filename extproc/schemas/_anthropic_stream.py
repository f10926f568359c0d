"""Anthropic Messages streams, both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    ToolStart,
    UsageReport,
)
from extproc.core.usage import Tokens
from extproc.schemas._anthropic_answers import STOP_REASON, UsageState, answer_id, read_stop, render_usage
from extproc.schemas._codec import ANY, decode_answer, encode, json_object, tool_id
from extproc.schemas._problems import read_failure
from extproc.wire.sse import ServerSentEvent


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: Any = None


class _Call(msgspec.Struct):
    """A tool_use block underway; `given` is the input its start held, used when no delta comes."""

    number: int
    given: str
    fed: bool = False


_EVENT = msgspec.json.Decoder(_Event)


class AnthropicStreamParser:
    """Named events in, neutral events out; dispatch is on the `type` inside the data."""

    __slots__ = ("_calls", "_count", "_usage")

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._count = 0
        self._usage = UsageState()

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Return the events of one SSE event; raise UpstreamError when it makes no sense."""
        if not event.data:
            return ()
        wire = decode_answer(_EVENT, event.data)
        match wire.type:
            case "content_block_delta":
                return self._delta(wire.index, wire.delta or _Delta())
            case "content_block_start":
                return self._block(wire.index, wire.content_block or _Block())
            case "content_block_stop":
                return self._end(wire.index)
            case "message_start":
                return self._start(wire.message or _Message())
            case "message_delta":
                return self._message_delta(wire)
            case "message_stop":
                return (Done(),)
            case "error":
                return (read_failure(decode_answer(ANY, event.data), event.data),)
            case _:
                return ()  # ping, and what is not known yet

    def _start(self, message: _Message) -> tuple[Event, ...]:
        self._usage.update(message.usage)
        return Start(message.id or "", message.model or ""), self._usage.report(with_output=False)

    def _message_delta(self, wire: _Event) -> tuple[Event, ...]:
        self._usage.update(wire.usage)
        report = self._usage.report(with_output=isinstance(wire.usage, dict))
        if wire.delta is None or wire.delta.stop_reason is None:
            return (report,)
        return report, read_stop(wire.delta.stop_reason, wire.delta.stop_sequence)

    def _block(self, index: int, block: _Block) -> tuple[Event, ...]:
        match block.type:
            case "tool_use":
                call = self._calls[index] = _Call(self._count, bytes(block.input).decode("utf-8", "replace"))
                self._count += 1
                return (ToolStart(call.number, block.id or "", block.name or ""),)
            case "text" if block.text:
                return (TextDelta(block.text),)
            case "thinking" if block.thinking or block.signature:
                return (ThinkingDelta(block.thinking or "", block.signature or None),)
            case "redacted_thinking":
                return (ThinkingDelta(redacted=block.data or ""),)
            case _:
                return ()

    def _delta(self, index: int, delta: _Delta) -> tuple[Event, ...]:
        match delta.type:
            case "text_delta":
                return (TextDelta(delta.text),) if delta.text else ()
            case "input_json_delta":
                # Deltas of blocks that are not ours (server tools) have no entry.
                call = self._calls.get(index)
                if call is None or not delta.partial_json:
                    return ()
                call.fed = True
                return (ToolDelta(call.number, delta.partial_json),)
            case "thinking_delta":
                return (ThinkingDelta(delta.thinking),) if delta.thinking else ()
            case "signature_delta":
                return (ThinkingDelta(signature=delta.signature),) if delta.signature else ()
            case _:
                return ()

    def _end(self, index: int) -> tuple[Event, ...]:
        call = self._calls.pop(index, None)
        if call is None or call.fed:
            return ()
        return (ToolDelta(call.number, call.given),)


class _Pending(msgspec.Struct):
    """A block of the answer: the first of the queue is live, the others collect their deltas."""

    kind: str
    start: dict[str, Any]
    deltas: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])
    arguments: list[str] = msgspec.field(default_factory=list[str])
    sealed: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing more can come once another block has begun."""
        return self.kind != "tool" or json_object("".join(self.arguments))


def _sse(name: str, value: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"


class AnthropicStreamRenderer:
    """Neutral events in, named events out. Indices are contiguous and blocks never overlap:
    deltas of a tool call that interleave with another block's wait until their turn."""

    __slots__ = (
        "_fallback",
        "_index",
        "_live",
        "_model",
        "_over",
        "_queue",
        "_sequence",
        "_started",
        "_stop",
        "_tokens",
        "_tools",
    )

    def __init__(self, *, model: str, fallback_id: str) -> None:
        self._model = model
        self._fallback = fallback_id
        self._started = False
        self._over = False
        self._index = 0
        self._live = False  # whether the queue's first block was begun
        self._queue: list[_Pending] = []
        self._tools: dict[int, _Pending] = {}
        self._tokens = Tokens()
        self._stop: StopReason | None = None
        self._sequence: str | None = None

    def feed(self, event: Event) -> bytes:
        """Return the client's bytes of one event; nothing after Done or Failure."""
        if self._over:
            return b""
        match event:
            case TextDelta(text=text):
                return self._text(text) if text else b""
            case ToolDelta():
                return self._arguments(event)
            case ThinkingDelta():
                return self._thinking(event)
            case ToolStart():
                return self._tool(event)
            case UsageReport(tokens=tokens):
                self._tokens = self._tokens.merged(tokens)
            case Stop(reason=reason, sequence=sequence):
                self._stop, self._sequence = reason, sequence
            case Start(id=identifier):
                return self._start(identifier)
            case Done():
                return self._done()
            case Failure():
                self._over = True
        return b""

    def _start(self, identifier: str) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = {
            "id": answer_id(identifier, self._fallback),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": render_usage(self._tokens),
        }
        return _sse("message_start", {"type": "message_start", "message": message})

    def _text(self, text: str) -> bytes:
        head = self._ensure("text", {"type": "text", "text": ""})
        return head + self._add(self._queue[-1], {"type": "text_delta", "text": text})

    def _thinking(self, event: ThinkingDelta) -> bytes:
        if event.redacted is not None:
            return self._push(_Pending("redacted", {"type": "redacted_thinking", "data": event.redacted}))
        if not event.text and event.signature is None:
            return b""
        out = self._ensure("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        block = self._queue[-1]
        if event.text:
            out += self._add(block, {"type": "thinking_delta", "thinking": event.text})
        if event.signature is not None:
            out += self._add(block, {"type": "signature_delta", "signature": event.signature})
            block.sealed = True
        return out

    def _tool(self, event: ToolStart) -> bytes:
        identifier = tool_id(event.id, prefix="toolu", number=event.index)
        block = _Pending("tool", {"type": "tool_use", "id": identifier, "name": event.name, "input": {}})
        self._tools[event.index] = block
        return self._push(block)

    def _arguments(self, event: ToolDelta) -> bytes:
        block = self._tools.get(event.index)
        if block is None or block.sealed or not event.arguments:
            return b""
        block.arguments.append(event.arguments)
        out = self._add(block, {"type": "input_json_delta", "partial_json": event.arguments})
        if len(self._queue) > 1 and event.arguments.rstrip().endswith("}"):
            out += self._advance()
        return out

    def _ensure(self, kind: str, start: dict[str, Any]) -> bytes:
        """Make the last block one of this kind."""
        if self._queue and self._queue[-1].kind == kind and not self._queue[-1].sealed:
            return b""
        return self._push(_Pending(kind, start))

    def _push(self, block: _Pending) -> bytes:
        head = b"" if self._started else self._start("")
        self._queue.append(block)
        return head + self._advance()

    def _add(self, block: _Pending, delta: dict[str, Any]) -> bytes:
        if self._live and block is self._queue[0]:
            return self._delta(delta)
        block.deltas.append(delta)
        return b""

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
            % self._index
            + encode(delta)
            + b"}\n\n"
        )

    def _advance(self, last: bool = False) -> bytes:
        """Close complete blocks that have a successor (all, at the last), and make the next one live."""
        out: list[bytes] = []
        while self._queue:
            block = self._queue[0]
            if not self._live:
                out.append(self._open(block))
            if not last and (len(self._queue) == 1 or not block.complete):
                break
            out.append(_sse("content_block_stop", {"type": "content_block_stop", "index": self._index}))
            block.sealed = True
            self._queue.pop(0)
            self._index += 1
            self._live = False
        return b"".join(out)

    def _open(self, block: _Pending) -> bytes:
        self._live = True
        start = {"type": "content_block_start", "index": self._index, "content_block": block.start}
        out = _sse("content_block_start", start) + b"".join(self._delta(delta) for delta in block.deltas)
        block.deltas = []
        return out

    def _done(self) -> bytes:
        out = (b"" if self._started else self._start("")) + self._advance(last=True)
        self._over = True
        reason = self._stop or ("tool_use" if self._tools else "end")
        delta = {"stop_reason": STOP_REASON[reason], "stop_sequence": self._sequence}
        out += _sse(
            "message_delta", {"type": "message_delta", "delta": delta, "usage": render_usage(self._tokens)}
        )
        return out + _sse("message_stop", {"type": "message_stop"})
