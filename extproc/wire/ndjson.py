"""Newline-delimited JSON, incrementally: any chunking of the bytes gives the same events.

Source: the NDJSON specification 1.0.0 (github.com/ndjson/ndjson-spec): UTF-8 lines that end in LF; a CR before it is
white space. A last line without a LF stays pending.
"""

from __future__ import annotations

from extproc.wire import sse
from extproc.wire.sse import EventTooLarge, ServerSentEvent


class NdjsonDecoder:
    """Splits a byte stream into lines, in the form of `SseDecoder`. Blank lines come out with empty `data`."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bytes:
        """Bytes of a line that has not ended yet."""
        return b"".join(self._pieces)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the lines that this chunk completes.

        Raises:
            EventTooLarge: a line exceeds `sse.MAX_EVENT`.
        """
        end = chunk.rfind(b"\n") + 1
        events: list[ServerSentEvent] = []
        if end:
            # Pieces are joined once per line: a long line in many small chunks stays linear.
            whole = b"".join((*self._pieces, chunk[:end]))
            self._pieces, self._size = [], 0
            events = [ServerSentEvent(b"", line.strip(), line + b"\n") for line in whole[:-1].split(b"\n")]
        if end < len(chunk):
            self._pieces.append(chunk[end:])
            self._size += len(chunk) - end
        if self._size > sse.MAX_EVENT:
            raise EventTooLarge(f"a line is longer than {sse.MAX_EVENT} bytes")
        return events
