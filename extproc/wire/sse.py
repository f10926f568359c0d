"""Server-sent events, incrementally: any chunking of the bytes gives the same events.

Source: WHATWG HTML, "Server-sent events", section 9.2.6 (parsing an event stream).
"""

from __future__ import annotations

import re

import msgspec

MAX_EVENT = 16 * 1024 * 1024
"""Bytes one event may have before the stream is called broken (providers send images and files in events)."""


class EventTooLarge(Exception):  # noqa: N818
    """An event grew past `MAX_EVENT` without ending."""


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One event. `raw` is its exact bytes with the closing blank line; `data` joins its data lines with LF."""

    event: bytes
    data: bytes
    raw: bytes


_BOM = b"\xef\xbb\xbf"
# A line ends in CRLF, LF or CR; a CR at the end of the bytes may still become a CRLF.
_LINE_END = rb"(?:\r\n|\n|\r(?=[^\n]))"
_BLANK_FIRST = re.compile(_LINE_END)
_BLANK_LATER = re.compile(rb"(?:\r\n|\n|\r(?!\n))" + _LINE_END)
_REACH = 3
"""Bytes before a chunk in which the blank line that ends an event may begin: CR LF CR."""


class SseDecoder:
    """Splits a byte stream into events, in linear time however it is cut.

    Comments and events without data come out with empty `data`.
    """

    __slots__ = ("_bom", "_pieces", "_size", "_tail")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._tail = b""  # the last bytes of the pieces
        self._bom: bytes | None = b""  # the first bytes, while they may be a byte order mark

    @property
    def pending(self) -> bytes:
        """Bytes of an event that has not ended yet."""
        return (self._bom or b"") + b"".join(self._pieces)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that this chunk completes.

        Raises:
            EventTooLarge: an event exceeds MAX_EVENT.
        """
        if self._bom is not None:
            chunk = self._bom + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._bom = chunk
                return []
            self._bom, chunk = None, chunk.removeprefix(_BOM)
        events: list[ServerSentEvent] = []
        start = 0
        if self._size:
            window = self._tail + chunk
            end = _end(window, 0, fresh=self._size == len(self._tail))
            if end < 0:
                self._keep(chunk)
                return events
            start = end - len(self._tail)
            events.append(_event(b"".join((*self._pieces, chunk[:start]))))
            self._pieces, self._size, self._tail = [], 0, b""
        if b"\r" not in chunk:  # what nearly every provider writes
            while (end := _end_lf(chunk, start)) >= 0:
                events.append(_event(chunk[start:end]))
                start = end
        else:
            while (end := _end(chunk, start, fresh=True)) >= 0:
                events.append(_event(chunk[start:end]))
                start = end
        if start < len(chunk):
            self._keep(chunk[start:] if start else chunk)
        return events

    def _keep(self, rest: bytes) -> None:
        self._pieces.append(rest)
        self._size += len(rest)
        self._tail = (self._tail + rest)[-_REACH:]
        if self._size > MAX_EVENT:
            raise EventTooLarge(f"an event is longer than {MAX_EVENT} bytes")


def _end_lf(data: bytes, start: int) -> int:
    """Offset just after the blank line that ends the event at `start`, in bytes without CR; -1: not there yet."""
    if data.startswith(b"\n", start):
        return start + 1
    found = data.find(b"\n\n", start)
    return found + 2 if found >= 0 else -1


def _end(data: bytes, start: int, *, fresh: bool) -> int:
    """The same for any line ends. `fresh`: the event begins at `start`, so that an empty line there is its end."""
    if fresh and (found := _BLANK_FIRST.match(data, start)) is not None:
        return found.end()
    found = _BLANK_LATER.search(data, start)
    return found.end() if found is not None else -1


def _event(raw: bytes) -> ServerSentEvent:
    name = b""
    data: list[bytes] = []
    # Fast path: the one-line "data: ..." event that makes up nearly all of a stream.
    if raw.startswith(b"data: ") and raw.find(b"\n", 6) == len(raw) - 2 and b"\r" not in raw:
        return ServerSentEvent(b"", raw[6:-2], raw)
    if raw.startswith(b"event: ") and raw.endswith(b"\n\n") and b"\r" not in raw:
        # Anthropic's and the Responses API's: a name, then one line of data.
        head = raw.find(b"\ndata: ", 7)
        if head > 0 and raw.find(b"\n", 7) == head and raw.find(b"\n", head + 7) == len(raw) - 2:
            return ServerSentEvent(raw[7:head], raw[head + 7 : -2], raw)
    for line in raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return ServerSentEvent(name, b"\n".join(data), raw)
