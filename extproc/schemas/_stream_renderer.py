"""What the renderers of streams share: how events are told apart and summed up, and how blocks that may interleave
are told one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

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


class EventRenderer(ABC):
    """Neutral events in, the client's bytes out. What ends a stream comes at Done, when usage and stop are known."""

    __slots__ = ("_called", "_over", "_sequence", "_stop", "_tokens")

    def __init__(self) -> None:
        self._tokens = Tokens()
        self._stop: StopReason | None = None
        self._sequence: str | None = None
        self._called = False
        self._over = False

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
                self._called = True
                return self._tool(event)
            case UsageReport(tokens=tokens):
                self._tokens = self._tokens.merged(tokens)
            case Stop(reason=reason, sequence=sequence):
                self._stop, self._sequence = reason, sequence
            case Start(id=identifier):
                return self._start(identifier)
            case Done():
                self._over = True
                return self._done()
            case Failure():
                self._over = True
        return b""

    @property
    def _reason(self) -> StopReason:
        """Why the model stopped; when untold, what the content says."""
        return self._stop or ("tool_use" if self._called else "end")

    @abstractmethod
    def _start(self, identifier: str) -> bytes:
        """The answer begins, with the provider's id for it."""

    @abstractmethod
    def _text(self, text: str) -> bytes:
        """More text, which is not empty."""

    @abstractmethod
    def _thinking(self, event: ThinkingDelta) -> bytes: ...

    @abstractmethod
    def _tool(self, event: ToolStart) -> bytes: ...

    @abstractmethod
    def _arguments(self, event: ToolDelta) -> bytes: ...

    @abstractmethod
    def _done(self) -> bytes: ...


class Block(Protocol):
    """A part of an answer. `sealed`: nothing may be added any more."""

    kind: str
    sealed: bool

    @property
    def complete(self) -> bool:
        """Whether nothing more can come once another block has begun."""
        ...


B = TypeVar("B", bound=Block)


class BlockRenderer(EventRenderer, Generic[B]):
    """For clients that take blocks one after the other: the first of the queue is live, and what comes for the others
    (calls may interleave) waits until their turn."""

    __slots__ = ("_live", "_queue", "_tools")

    def __init__(self) -> None:
        super().__init__()
        self._queue: list[B] = []
        self._live = False  # whether the queue's first block was begun
        self._tools: dict[int, B] = {}

    def _continues(self, kind: str) -> bool:
        """Whether the last block is one of this kind that goes on."""
        return bool(self._queue) and self._queue[-1].kind == kind and not self._queue[-1].sealed

    def _arguments(self, event: ToolDelta) -> bytes:
        block = self._tools.get(event.index)
        if block is None or block.sealed or not event.arguments:
            return b""
        out = self._add_arguments(block, event.arguments)
        if len(self._queue) > 1 and event.arguments.rstrip().endswith("}"):
            out += self._advance()
        return out

    def _advance(self, last: bool = False) -> bytes:
        """Close complete blocks that have a successor (all, at the last), and make the next one live."""
        out: list[bytes] = []
        while self._queue:
            block = self._queue[0]
            if not self._live:
                self._live = True
                out.append(self._open(block))
            if not last and (len(self._queue) == 1 or not block.complete):
                break
            out.append(self._close(block, final=last and len(self._queue) == 1))
            block.sealed = True
            self._queue.pop(0)
            self._live = False
        return b"".join(out)

    @abstractmethod
    def _add_arguments(self, block: B, arguments: str, /) -> bytes:
        """More of a tool call: its bytes, or none while it waits."""

    @abstractmethod
    def _open(self, block: B, /) -> bytes:
        """A block becomes the live one, with what has come for it so far."""

    @abstractmethod
    def _close(self, block: B, /, *, final: bool) -> bytes:
        """The live block ends; `final`: it is the last of the answer."""
