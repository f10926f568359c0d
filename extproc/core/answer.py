"""Reading a provider's answer while it arrives: whole or streamed, translated or passed through.

An `Answer` gets the body's bytes and says what goes to the client and what was learnt (usage, stop, error, end).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from extproc.core.conversation import (
    Done,
    Event,
    Failure,
    Start,
    Stop,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    UsageReport,
)
from extproc.core.errors import UpstreamError
from extproc.core.routing.outcomes import Watch
from extproc.core.toolbox import Filter
from extproc.core.usage import Terms, Tokens
from extproc.schemas.base import ClientSchema, ProviderSchema
from extproc.wire.sse import EventTooLarge, ServerSentEvent

MAX_WHOLE = 64 << 20
"""Bytes a non-stream answer may have."""


class Learnt:
    """What an answer has told so far. `passed` counts output characters or events, for cut streams."""

    def __init__(self) -> None:
        self.tokens, self.terms = Tokens(), Terms()
        self.model = ""
        self.finish = ""
        self.failure: Failure | None = None
        self.done = False
        self.started = False
        self.characters = 0

    def take(self, events: Sequence[Event]) -> None:
        """Note the facts of neutral events."""
        for event in events:
            match event:
                case UsageReport():
                    self.tokens = self.tokens.merged(event.tokens)
                    self.terms = self.terms.merged(event.terms)
                case Start():
                    self.model = event.model or self.model
                    self.started = True
                case Stop():
                    self.finish = event.reason
                case Failure():
                    self.failure = event
                    return
                case Done():
                    self.done = True
                case TextDelta() | ThinkingDelta():
                    self.characters += len(event.text)
                    self.started = True
                case ToolDelta():
                    self.characters += len(event.arguments)
                case _:
                    self.started = True

    def told(self, events: Sequence[Event]) -> None:
        """Note what a filter made of the provider's stop reason."""
        for event in events:
            if isinstance(event, Stop):
                self.finish = event.reason


class Reading(msgspec.Struct, frozen=True):
    """How an answer is read: from which schema into which, through which filters.

    With the same schema on both sides and no filter the bytes pass through.
    """

    client: ClientSchema
    backend: ProviderSchema
    model: str
    created: int
    rid: str
    include_usage: bool = False
    filters: tuple[Filter, ...] = ()
    rewrite: bool = False
    """Whether the answer is written anew for a client of the same schema too: the provider's own form differs."""
    watch: Watch | None = None
    """Looks for flaws in the events that the client gets; bytes that pass through are not looked at."""

    @property
    def same(self) -> bool:
        """Whether the bytes pass through."""
        return self.client.name == self.backend.name and not self.filters and not self.rewrite

    def filtered(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events after all filters."""
        for one in self.filters:
            events = [out for event in events for out in one(event)]
        return events


class WholeAnswer:
    """A non-stream answer: kept until its end, then translated or passed through."""

    def __init__(self, how: Reading) -> None:
        self._how = how
        self._chunks: list[bytes] = []
        self._size = 0
        self.learnt = Learnt()

    @property
    def cut(self) -> bool:
        """Whether the body is no more than the beginning of an answer."""
        body = b"".join(self._chunks).strip()
        return not body or (body[:1] in (b"{", b"[") and body[-1:] not in (b"}", b"]"))

    def feed(self, chunk: bytes) -> None:
        """Keep a chunk; raises UpstreamError when the answer grows past the limit."""
        self._size += len(chunk)
        if self._size > MAX_WHOLE:
            raise UpstreamError(f"the answer is longer than {MAX_WHOLE} bytes")
        self._chunks.append(chunk)

    def finish(self) -> bytes:
        """Parse the whole answer and return the client's body; raises UpstreamError on nonsense."""
        body = b"".join(self._chunks)
        how = self._how
        events = how.backend.parse_response(body)
        self.learnt.take(events)
        if self.learnt.failure is not None:
            return body
        said = events if how.same else list(how.filtered(events))
        if how.watch is not None:
            how.watch.feed(said)
        if how.same:
            return body
        if not how.rewrite and how.client.name == how.backend.name and said == list(events):
            return body  # nothing to mend: the provider's own words, with all that events do not tell
        events = said
        self.learnt.told(events)
        return how.client.render_response(events, model=how.model, created=how.created, fallback_id=how.rid)


class StreamAnswer:
    """A streamed answer. Only whole events go out, so that an error event can be appended at any time."""

    def __init__(self, how: Reading) -> None:
        self._how = how
        self._decoder = how.backend.stream_decoder()
        self._parser = how.backend.stream_parser()
        self._same = how.same
        self._schema = how.backend
        self._include_usage = how.include_usage
        self._watch = how.watch
        self._renderer = how.client.stream_renderer(
            model=how.model, created=how.created, fallback_id=how.rid, include_usage=how.include_usage)
        self.learnt = Learnt()

    def feed(self, chunk: bytes) -> bytes:
        """Return the client's bytes for a chunk; raises UpstreamError on nonsense. Nothing comes after the end."""
        if self.learnt.done:
            return b""
        try:
            events = self._decoder.feed(chunk)
        except EventTooLarge as error:
            raise UpstreamError(str(error)) from error
        return self._passed(events) if self._same else self._translated(events)

    def close(self) -> bytes:
        """The upstream ended: take a terminal event whose closing blank line is missing, as client libraries do.

        Anything else that is unfinished was cut off, and nothing of it goes out.
        """
        if not self._decoder.pending.strip():
            return b""
        try:
            out = self.feed(b"\n\n")
        except UpstreamError:
            return b""
        return out if self.learnt.done else b""

    def _passed(self, events: Sequence[ServerSentEvent]) -> bytes:
        out: list[bytes] = []
        learnt, schema = self.learnt, self._schema
        for event in events:
            if not event.data:
                if learnt.started:
                    out.append(event.raw)
                continue
            if schema.usage_in_event(event) or not learnt.started:
                learnt.take(self._parser.feed(event))
                if learnt.failure is not None:
                    break
            learnt.started = True
            learnt.characters += schema.text_bytes(event)
            if not schema.hides_from_client(event, self._include_usage):
                out.append(event.raw)
            if learnt.done:
                break
        return b"".join(out)

    def _translated(self, events: Sequence[ServerSentEvent]) -> bytes:
        out: list[bytes] = []
        learnt = self.learnt
        for event in events:
            if not event.data:
                continue  # comments and keep-alives of the provider
            neutral = self._parser.feed(event)
            learnt.take(neutral)
            if learnt.failure is not None:
                break
            if self._how.filters:
                neutral = self._how.filtered(neutral)
                learnt.told(neutral)
            if self._watch is not None:
                self._watch.feed(neutral)
            out += [self._renderer.feed(item) for item in neutral]
            if learnt.done:
                break
        return b"".join(out)
