"""Lines of JSON from bytes."""

from __future__ import annotations

import pytest

from extproc.wire import sse
from extproc.wire.ndjson import NdjsonDecoder
from extproc.wire.sse import EventTooLarge

CASES = [
    (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
    (b'\n\n{"a":1}\n \n', [b"", b"", b'{"a":1}', b""]),
    (b'  {"a": "\xc3\xa9"} \n', [b'{"a": "\xc3\xa9"}']),
]


@pytest.mark.parametrize(("stream", "expected"), CASES)
def test_any_chunking_gives_the_same_lines(stream: bytes, expected: list[bytes]) -> None:
    """Whole, byte by byte, or with a trailing fragment: the same lines, and no byte lost."""
    whole = NdjsonDecoder().feed(stream)
    slow = NdjsonDecoder()
    bytewise = [event for i in range(len(stream)) for event in slow.feed(stream[i : i + 1])]
    trailing = NdjsonDecoder()
    cut = trailing.feed(stream + b'{"unfinished')
    for events in (whole, bytewise, cut):
        assert expected == [event.data for event in events]
        assert {b""} == {event.event for event in events}
        assert stream == b"".join(event.raw for event in events)
    assert trailing.pending == b'{"unfinished'
    assert slow.pending == b""


def test_a_last_line_without_its_end_comes_with_the_next_one() -> None:
    """A pending line ends where a line break is fed, as the gateway does when an upstream closes."""
    decoder = NdjsonDecoder()
    assert decoder.feed(b'{"done"') == []
    assert decoder.feed(b":true}") == []
    assert [event.data for event in decoder.feed(b"\n\n")] == [b'{"done":true}', b""]
    assert decoder.pending == b""


def test_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that never ends is an error, not unbounded memory; whole lines do not count against it."""
    monkeypatch.setattr(sse, "MAX_EVENT", 64)
    decoder = NdjsonDecoder()
    assert len(decoder.feed(b"{}\n" * 100)) == 100
    decoder.feed(b"x" * 60)
    with pytest.raises(EventTooLarge):
        decoder.feed(b"x" * 5)
