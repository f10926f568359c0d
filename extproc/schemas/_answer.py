"""A whole answer put together from its events, for the renderers of non-stream answers."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from extproc.core.conversation import (
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
from extproc.core.errors import UpstreamError
from extproc.core.usage import Tokens


class Block(msgspec.Struct):
    """One content block: `kind` is text, thinking, redacted or tool; `pieces` its text or arguments.

    A thinking block is closed by its `signature` or, with `encrypted`, by the id of its item.
    """

    kind: str
    pieces: list[str] = msgspec.field(default_factory=list[str])
    signature: str | None = None
    id: str = ""
    name: str = ""
    tool_kind: ToolKind = "function"
    namespace: str | None = None
    encrypted: str | None = None

    @property
    def text(self) -> str:
        """The block's whole text."""
        return "".join(self.pieces)


class Answer:
    """The blocks, usage and stop reason of an answer."""

    __slots__ = ("_stop", "_tools", "blocks", "id", "sequence", "tokens")

    def __init__(self) -> None:
        self.id = ""
        self.tokens = Tokens()
        self.blocks: list[Block] = []
        self.sequence: str | None = None
        self._stop: StopReason | None = None
        self._tools: dict[int, Block] = {}

    @property
    def stop(self) -> StopReason:
        """Why the model stopped; when untold, what the content says."""
        return self._stop or ("tool_use" if self._tools else "end")

    def text(self, kind: str) -> str:
        """All text of one kind of block."""
        return "".join(block.text for block in self.blocks if block.kind == kind)

    def tools(self) -> list[Block]:
        """The tool calls, in order."""
        return [block for block in self.blocks if block.kind == "tool"]

    def add(self, event: Event) -> None:
        """Take one event in; raise UpstreamError for a Failure, which is no answer."""
        match event:
            case TextDelta(text=text):
                self._tail("text").pieces.append(text)
            case ThinkingDelta():
                self._thinking(event)
            case ToolStart():
                block = Block("tool", id=event.id, name=event.name, tool_kind=event.kind, namespace=event.namespace)
                self._tools[event.index] = block
                self.blocks.append(block)
            case ToolDelta(index=index, arguments=arguments):
                if index in self._tools:
                    self._tools[index].pieces.append(arguments)
            case UsageReport(tokens=tokens):
                self.tokens = self.tokens.merged(tokens)
            case Stop(reason=reason, sequence=sequence):
                self._stop, self.sequence = reason, sequence
            case Start(id=identifier):
                self.id = identifier
            case Failure(kind=kind, message=message):
                raise UpstreamError(message, kind=kind)
            case _:
                pass

    def _tail(self, kind: str) -> Block:
        last = self.blocks[-1] if self.blocks else None
        if last is None or last.kind != kind or last.signature is not None or last.encrypted is not None:
            last = Block(kind)
            self.blocks.append(last)
        return last

    def _thinking(self, event: ThinkingDelta) -> None:
        if event.redacted is not None:
            self.blocks.append(Block("redacted", [event.redacted]))
            return
        block = self._tail("thinking")
        block.pieces.append(event.text)
        if event.signature is not None:
            block.signature = event.signature
        if event.encrypted is not None or event.id is not None:
            block.encrypted, block.id = event.encrypted or "", event.id or block.id


def gather(events: Iterable[Event]) -> Answer:
    """Put an answer together; raise UpstreamError when the events hold a Failure."""
    answer = Answer()
    for event in events:
        answer.add(event)
    return answer
