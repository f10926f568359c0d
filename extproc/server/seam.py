"""The seam under the stages: what a transport offers to a stream and what it calls on it. Bytes in, bytes out.

`open` gives a stream for constant initial metadata; `feed` is synchronous and never blocks; what waits is started with
`later`, and its answers go out through `reply`, or nowhere when the stream is gone; `closed` is called exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from extproc.core.events import Event

MAX_ANSWER = 62_000
"""Bytes of body one streamed answer may carry (Envoy's own bound for full-duplex answers)."""


class Channel(Protocol):
    """What a transport gives to a stream."""

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that waits; it outlives the stream and is never cancelled with it."""
        ...

    def reply(self, answers: list[bytes]) -> None:
        """Send answers that no message caused."""
        ...


class Heard(Protocol):
    """A stream that takes events no message caused."""

    def hear(self, event: Event) -> None:
        """Give the stage an event."""
        ...


class Stream(Protocol):
    """One ext_proc stream."""

    finished: bool

    def feed(self, message: bytes) -> list[bytes]:
        """Take one message, return zero, one or many answers."""
        ...

    def closed(self) -> None:
        """The stream is over; called exactly once."""
        ...


Opener = Callable[[Mapping[str, str], Channel], Stream]
"""Opens a stream from its initial metadata."""
