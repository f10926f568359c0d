"""The OpenAI Responses schema: a facade over its request, answer and stream codecs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from extproc.core.conversation import Conversation, Event
from extproc.core.errors import Problem
from extproc.schemas import _responses_answers as answers
from extproc.schemas import _responses_events as events_out
from extproc.schemas import _responses_parse as parse
from extproc.schemas import _responses_render as render
from extproc.schemas._openai_family import OpenAIFamily
from extproc.schemas._responses_stream import ResponsesStreamParser
from extproc.schemas.base import Rendered, Target
from extproc.wire.sse import ServerSentEvent

_TELLING = re.compile(
    rb'"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed|cancelled)|error)"|"error"\s*:\s*[{"]')


class OpenAIResponses(OpenAIFamily):
    """OpenAI Responses without its server-side state: every request brings the whole conversation."""

    name = "responses"
    path = "/v1/responses"
    limits = ("max_output_tokens",)

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
        """Replace the model, and leave out reasoning that no Responses backend made; all else keeps its bytes."""
        return render.patch_request(body, target, self.limits)

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole answer; the last event is Done, or a Failure."""
        return answers.parse_response(body)

    def render_response(
        self, events: Iterable[Event], *, model: str, created: int, fallback_id: str
    ) -> bytes:
        """Render a whole answer; raise UpstreamError when the events hold a Failure."""
        return events_out.render_response(events, model=model, created=created, fallback_id=fallback_id)

    def stream_parser(self) -> ResponsesStreamParser:
        """A new parser for one upstream stream."""
        return ResponsesStreamParser()

    def stream_renderer(
        self, *, model: str, created: int, fallback_id: str, include_usage: bool
    ) -> events_out.ResponsesRenderer:
        """A new renderer for one client stream; usage is always told."""
        return events_out.ResponsesRenderer(model=model, created=created, fallback_id=fallback_id)

    def usage_in_event(self, event: ServerSentEvent) -> bool:
        """Whether the event ends the answer or tells an error; usage and stop reason stand nowhere else."""
        return _TELLING.search(event.data) is not None

    def render_stream_error(self, problem: Problem, request_id: str) -> bytes:
        """The event that ends a stream after an error."""
        return answers.render_stream_error(problem, request_id)
