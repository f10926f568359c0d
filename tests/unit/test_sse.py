"""Server-sent events from bytes."""

from __future__ import annotations

import pytest

from extproc.wire import sse
from extproc.wire.sse import EventTooLarge, SseDecoder

CASES = [
    (b"data: a\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
    (b"event: x\ndata: 1\ndata: 2\n\n", [(b"x", b"1\n2")]),
    (b"event: x\r\ndata:1\r\n\r\ndata: 2\r\n\r\n", [(b"x", b"1"), (b"", b"2")]),
    (b"\xef\xbb\xbfdata: bom\n\n", [(b"", b"bom")]),
    (b": keep-alive\n\ndata: \xc3\xa9\n\n", [(b"", b""), (b"", b"\xc3\xa9")]),
    (b"data\n\nid: 7\ndata:  two\n\n", [(b"", b""), (b"", b" two")]),
]


@pytest.mark.parametrize(("stream", "expected"), CASES)
def test_any_chunking_gives_the_same_events(stream: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    """Whole, byte by byte, or with a trailing fragment: the same events, and no byte lost."""
    whole = SseDecoder().feed(stream)
    slow = SseDecoder()
    bytewise = [event for i in range(len(stream)) for event in slow.feed(stream[i : i + 1])]
    trailing = SseDecoder()
    cut = trailing.feed(stream + b"data: unfinished")
    for events in (whole, bytewise, cut):
        assert expected == [(event.event, event.data) for event in events]
    assert trailing.pending == b"data: unfinished"
    assert stream.removeprefix(b"\xef\xbb\xbf") == b"".join(event.raw for event in whole)


def test_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that never ends is an error, not unbounded memory."""
    monkeypatch.setattr(sse, "MAX_EVENT", 64)
    with pytest.raises(EventTooLarge):
        SseDecoder().feed(b"data: " + b"x" * 100)
