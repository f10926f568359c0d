"""What a schema module offers: four pure codecs between its wire format and the neutral conversation model.

`ls extproc/schemas/` is the support matrix. Adding a schema is adding one file with a `Schema` subclass and one
line in `extproc/schemas/__init__.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

import msgspec

from extproc.core.conversation import Conversation, Event
from extproc.core.errors import Problem
from extproc.wire.sse import ServerSentEvent


class Rendered(msgspec.Struct, frozen=True):
    """A request body for a backend, and the names of what could not be carried (told in a warning header)."""

    body: bytes
    dropped: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True):
    """What a renderer must know of the backend: the model's name there and its output ceiling."""

    model: str
    max_output: int | None = None
    default_max_tokens: int = 16384


class StreamParser(Protocol):
    """Turns the provider's server-sent events into neutral events. One per attempt; holds the stream's state."""

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Return the neutral events of one SSE event; raise UpstreamError when it makes no sense."""
        ...


class StreamRenderer(Protocol):
    """Turns neutral events into the client's stream bytes. One per attempt; holds the stream's state."""

    def feed(self, event: Event) -> bytes:
        """Return the client's bytes for one neutral event; may be empty."""
        ...


class Schema(ABC):
    """One API schema, both directions."""

    name: ClassVar[str]
    chat_path: ClassVar[str]
    """Path below the version prefix, for example ``/v1/chat/completions``."""

    @abstractmethod
    def parse_request(self, body: bytes) -> Conversation:
        """Parse a client's request; raise RequestError naming the field when it is wrong."""

    @abstractmethod
    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request for a backend of this schema."""

    @abstractmethod
    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Names of features in the request that a backend of this schema cannot serve at all."""

    @abstractmethod
    def patch_request(self, body: bytes, target: Target) -> bytes:
        """Same-schema pass-through: replace only what must change (model; usage reporting of streams)."""

    @abstractmethod
    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole (non-stream) answer; the last event is Done. Raise UpstreamError on nonsense."""

    @abstractmethod
    def render_response(self, events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
        """Render a whole answer for a client of this schema."""

    @abstractmethod
    def stream_parser(self) -> StreamParser:
        """A new parser for one upstream stream."""

    @abstractmethod
    def stream_renderer(self, *, model: str, created: int, fallback_id: str, include_usage: bool) -> StreamRenderer:
        """A new renderer for one client stream."""

    @abstractmethod
    def usage_in_event(self, event: ServerSentEvent) -> bool:
        """A cheap scan: whether this event may hold usage, a stop reason, an error or the stream's end,
        and so has to be parsed on the pass-through way."""

    @abstractmethod
    def hides_from_client(self, event: ServerSentEvent, include_usage: bool) -> bool:
        """Pass-through: whether this event exists only because the gateway asked for it (OpenAI's usage chunk)."""

    @abstractmethod
    def parse_error(self, status: int, body: bytes) -> Problem:
        """Read a provider's error answer (any bytes): its kind, text, and the status to tell the client."""

    @abstractmethod
    def render_error(self, problem: Problem, request_id: str) -> bytes:
        """The JSON body of an error answer."""

    @abstractmethod
    def render_stream_error(self, problem: Problem, request_id: str) -> bytes:
        """The event that ends a stream after an error."""
