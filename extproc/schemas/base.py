"""What a schema module offers: pure codecs between a wire format and the neutral conversation model.

A client schema parses requests and renders answers, a provider schema renders requests and parses answers; most are
both. `ls extproc/schemas/` is the support matrix. Adding a schema is adding one file and one line in
`extproc/schemas/__init__.py`. How single providers depart from a schema is said in `extproc/dialects/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from extproc.core.conversation import Conversation, Event
from extproc.core.errors import Problem
from extproc.schemas._codec import encode_request
from extproc.wire.sse import ServerSentEvent, SseDecoder


class Rendered(msgspec.Struct, frozen=True):
    """The JSON fields of a request for a backend, and the names of what was dropped and of what was put differently
    (both told in a warning header)."""

    fields: dict[str, Any]
    dropped: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()

    @property
    def body(self) -> bytes:
        """The request's bytes; raises RequestError when a value cannot be written."""
        return encode_request(self.fields)


class Target(msgspec.Struct, frozen=True):
    """What a renderer must know of the backend: the model's name there, its output ceiling, its context."""

    model: str
    max_output: int | None = None
    default_max_tokens: int = 16384
    context: int | None = None
    granted: int | None = None
    """The output tokens that were paid for; sent as the limit."""
    server_uses: int | None = None
    """Uses of the provider's own tools that were paid for, where the request names no maximum."""
    max_tokens_only: bool = False
    """Whether the last of the schema's `limits`, the oldest, is the one to use: the backend knows no other."""


class StreamDecoder(Protocol):
    """Splits the provider's bytes into events."""

    @property
    def pending(self) -> bytes:
        """Bytes of an event that has not ended yet."""
        ...

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that this chunk completes; raise EventTooLarge."""
        ...


class StreamParser(Protocol):
    """Turns the provider's stream events into neutral events. One per attempt; holds the stream's state."""

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Return the neutral events of one event; raise UpstreamError when it makes no sense."""
        ...


class StreamRenderer(Protocol):
    """Turns neutral events into the client's stream bytes. One per attempt; holds the stream's state."""

    def feed(self, event: Event) -> bytes:
        """Return the client's bytes for one neutral event; may be empty."""
        ...


class ClientSchema(ABC):
    """The side that clients speak."""

    name: ClassVar[str]
    path: ClassVar[str]
    """Path with the version prefix, for example ``/v1/chat/completions``."""
    family: ClassVar[str] = "openai"
    """Whose error shapes and header names it uses: ``openai`` or ``anthropic``."""

    @abstractmethod
    def parse_request(self, body: bytes) -> Conversation:
        """Parse a client's request; raise RequestError naming the field when it is wrong."""

    @abstractmethod
    def render_response(self, events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
        """Render a whole answer for a client of this schema; raise UpstreamError when the events hold a Failure."""

    @abstractmethod
    def stream_renderer(self, *, model: str, created: int, fallback_id: str, include_usage: bool) -> StreamRenderer:
        """A new renderer for one client stream."""

    @abstractmethod
    def render_error(self, problem: Problem, request_id: str) -> bytes:
        """The JSON body of an error answer."""

    @abstractmethod
    def render_stream_error(self, problem: Problem, request_id: str) -> bytes:
        """The event that ends a stream after an error."""

    def ping(self) -> bytes:
        """Bytes that keep a waiting client's stream alive and mean nothing (WHATWG HTML 9.2.7: a comment)."""
        return b": keep-alive\n\n"


class ProviderSchema(ABC):
    """The side that backends speak."""

    name: ClassVar[str]
    path: ClassVar[str]
    content_type: ClassVar[str] = "text/event-stream"
    limits: ClassVar[tuple[str, ...]] = ("max_tokens",)
    """The fields of a request that limit its output; the first is the one to use."""

    @abstractmethod
    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request for a backend of this schema; raise RequestError when a value cannot be written."""

    @abstractmethod
    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Names of features in the request that this schema cannot say at all."""

    @abstractmethod
    def patch_request(self, body: bytes, target: Target) -> bytes:
        """Same-schema pass-through: replace only what must change (model; the granted limit; usage reporting of
        streams)."""

    @abstractmethod
    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole (non-stream) answer; the last event is Done. Raise UpstreamError on nonsense."""

    @abstractmethod
    def stream_parser(self) -> StreamParser:
        """A new parser for one upstream stream."""

    @abstractmethod
    def usage_in_event(self, event: ServerSentEvent) -> bool:
        """A cheap scan: whether this event may hold usage, a stop reason, an error or the stream's end,
        and so has to be parsed on the pass-through way."""

    @abstractmethod
    def parse_error(self, status: int, body: bytes) -> Problem:
        """Read a provider's error answer (any bytes): its kind, text, and the status to tell the client."""

    def text_bytes(self, event: ServerSentEvent) -> int:
        """About how many bytes of output an event of a pass-through stream holds, without reading its JSON: what a
        stream that is cut is charged by. A provider that sends a token an event: the bytes of a token."""
        return 4

    def hides_from_client(self, event: ServerSentEvent, include_usage: bool) -> bool:
        """Pass-through: whether this event exists only because the gateway asked for it (OpenAI's usage chunk)."""
        return False

    def stream_decoder(self) -> StreamDecoder:
        """A new decoder of the provider's stream bytes; server-sent events unless a schema says otherwise."""
        return SseDecoder()


class Schema(ClientSchema, ProviderSchema):
    """A schema that both clients and backends speak."""
