"""Server-sent events, incrementally: any chunking of the bytes gives the same events.

Source: WHATWG HTML, "Server-sent events", section 9.2.6 (parsing an event stream).
"""

from __future__ import annotations

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


class SseDecoder:
    """Splits a byte stream into events. Comments and events without data come out with empty `data`."""

    __slots__ = ("_buffer", "_first")

    def __init__(self) -> None:
        self._buffer = b""
        self._first = True

    @property
    def pending(self) -> bytes:
        """Bytes of an event that has not ended yet."""
        return self._buffer

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that this chunk completes.

        Raises:
            EventTooLarge: an event exceeds MAX_EVENT.
        """
        data = self._buffer + chunk if self._buffer else chunk
        if self._first:
            if b"\xef\xbb\xbf".startswith(data[:3]) and len(data) < 3:
                self._buffer = data
                return []
            self._first = False
            data = data.removeprefix(b"\xef\xbb\xbf")
        events: list[ServerSentEvent] = []
        start = 0
        # The common provider writes LF only; anything with a CR takes the careful way.
        if b"\r" not in data:
            while (end := data.find(b"\n\n", start)) >= 0:
                events.append(_event(data[start : end + 2]))
                start = end + 2
        else:
            while (end := _blank_line(data, start)) >= 0:
                events.append(_event(data[start:end]))
                start = end
        self._buffer = data[start:] if start else data
        if len(self._buffer) > MAX_EVENT:
            raise EventTooLarge(f"an event is longer than {MAX_EVENT} bytes")
        return events


def _blank_line(data: bytes, start: int) -> int:
    """Offset just after the first blank line at or after `start`, or -1 when it is not complete yet."""
    position = start
    while True:
        lf, cr = data.find(b"\n", position), data.find(b"\r", position)
        if lf < 0 and cr < 0:
            return -1
        eol = lf if cr < 0 or 0 <= lf < cr else cr
        after = eol + 1
        if data[eol] == 13:
            if after == len(data):
                return -1  # a LF may still follow this CR
            if data[after] == 10:
                after += 1
        if eol == position:
            return after
        position = after


def _event(raw: bytes) -> ServerSentEvent:
    name = b""
    data: list[bytes] = []
    # Fast path: the one-line "data: ..." event that makes up nearly all of a stream.
    if raw.startswith(b"data: ") and raw.find(b"\n", 6) == len(raw) - 2 and b"\r" not in raw:
        return ServerSentEvent(b"", raw[6:-2], raw)
    for line in raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return ServerSentEvent(name, b"\n".join(data), raw)
