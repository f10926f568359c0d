"""The OpenAI Chat Completions schema: a facade over its request, answer and stream codecs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from extproc.core.conversation import Conversation, Event
from extproc.schemas import _openai_answers as answers
from extproc.schemas import _openai_parse as parse
from extproc.schemas import _openai_render as render
from extproc.schemas._openai_family import OpenAIFamily
from extproc.schemas._openai_stream import OpenAIStreamParser, OpenAIStreamRenderer
from extproc.schemas.base import Rendered, Target
from extproc.wire.sse import ServerSentEvent


class OpenAIChat(OpenAIFamily):
    """OpenAI Chat Completions, as OpenAI and its many imitators speak it."""

    name = "openai"
    path = "/v1/chat/completions"
    limits = ("max_completion_tokens", "max_tokens")

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
        """Replace the model and make a stream report usage; all else keeps its bytes."""
        return render.patch_request(body, target, self.limits)

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole answer; the last event is Done, or the only one a Failure."""
        return answers.parse_response(body)

    def render_response(
        self, events: Iterable[Event], *, model: str, created: int, fallback_id: str
    ) -> bytes:
        """Render a whole answer; raise UpstreamError when the events hold a Failure."""
        return answers.render_response(events, model=model, created=created, fallback_id=fallback_id)

    def stream_parser(self) -> OpenAIStreamParser:
        """A new parser for one upstream stream."""
        return OpenAIStreamParser()

    def stream_renderer(
        self, *, model: str, created: int, fallback_id: str, include_usage: bool
    ) -> OpenAIStreamRenderer:
        """A new renderer for one client stream."""
        return OpenAIStreamRenderer(
            model=model, created=created, fallback_id=fallback_id, include_usage=include_usage
        )

    def hides_from_client(self, event: ServerSentEvent, include_usage: bool) -> bool:
        """Whether this is the usage chunk (empty choices) that the client did not ask for."""
        return not include_usage and answers.is_usage_chunk(event.data)
