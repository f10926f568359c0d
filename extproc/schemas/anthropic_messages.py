"""The Anthropic Messages schema: a facade over its request, answer and stream codecs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from extproc.core.conversation import Conversation, Event
from extproc.core.errors import Problem
from extproc.schemas import _anthropic_answers as answers
from extproc.schemas import _anthropic_parse as parse
from extproc.schemas import _anthropic_render as render
from extproc.schemas._anthropic_stream import AnthropicStreamParser, AnthropicStreamRenderer
from extproc.schemas.base import Rendered, Schema, Target
from extproc.wire.sse import ServerSentEvent

_PAYLOAD = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)', re.DOTALL)
_TELLING = frozenset({b"message_start", b"message_delta", b"message_stop", b"error"})


class AnthropicMessages(Schema):
    """Anthropic Messages, versions 2023-06-01 and 2026-10-21."""

    name = "anthropic"
    path = "/v1/messages"
    family = "anthropic"

    def parse_request(self, body: bytes) -> Conversation:
        """Parse a client's request; raise RequestError naming the field when it is wrong."""
        return parse.parse_request(body)

    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request for a backend of this schema."""
        return render.render_request(conversation, target)

    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Names of features that no backend of this schema can serve."""
        return render.refuses(conversation)

    def patch_request(self, body: bytes, target: Target) -> bytes:
        """Replace the model and the limit; all else keeps its bytes."""
        return render.patch_request(body, target, self.limits)

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole answer; the last event is Done, or the only one a Failure."""
        return answers.parse_response(body)

    def render_response(
        self, events: Iterable[Event], *, model: str, created: int, fallback_id: str
    ) -> bytes:
        """Render a whole answer; raise UpstreamError when the events hold a Failure."""
        return answers.render_response(events, model=model, created=created, fallback_id=fallback_id)

    def stream_parser(self) -> AnthropicStreamParser:
        """A new parser for one upstream stream."""
        return AnthropicStreamParser()

    def stream_renderer(
        self, *, model: str, created: int, fallback_id: str, include_usage: bool
    ) -> AnthropicStreamRenderer:
        """A new renderer for one client stream; usage is always part of it, and there is no creation time."""
        return AnthropicStreamRenderer(model=model, fallback_id=fallback_id)

    def usage_in_event(self, event: ServerSentEvent) -> bool:
        """Whether the event may hold usage, a stop reason, an error or the end."""
        if event.event:
            return event.event in _TELLING
        return b'"message_' in event.data or b'"error"' in event.data

    def text_bytes(self, event: ServerSentEvent) -> int:
        """The bytes of a delta's text, thinking or tool input, as they are escaped: one event holds several tokens."""
        if event.event != b"content_block_delta" and (event.event or b'"content_block_delta"' not in event.data):
            return 0
        found = _PAYLOAD.search(event.data)
        return 0 if found is None else found.end(1) - found.start(1)

    def render_error(self, problem: Problem, request_id: str) -> bytes:
        """The JSON body of an error answer."""
        return answers.render_error(problem, request_id)

    def render_stream_error(self, problem: Problem, request_id: str) -> bytes:
        """The error event that the official clients raise on."""
        return b"event: error\ndata: " + answers.render_error(problem, request_id) + b"\n\n"

    def ping(self) -> bytes:
        """Anthropic's own keep-alive event."""
        return b'event: ping\ndata: {"type": "ping"}\n\n'
