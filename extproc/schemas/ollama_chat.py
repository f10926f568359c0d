"""The native Ollama chat API: the only one of its APIs that takes a context length and refuses an overlong prompt."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.core.conversation import Conversation, Event
from extproc.schemas import _ollama_answers as answers
from extproc.schemas import _ollama_render as render
from extproc.schemas._passing import edits, limit_in_options
from extproc.schemas.base import ProviderSchema, Rendered, Target
from extproc.wire.json_splice import TopLevel
from extproc.wire.ndjson import NdjsonDecoder
from extproc.wire.sse import ServerSentEvent


class OllamaChat(ProviderSchema):
    """Ollama's /api/chat. Clients do not speak it."""

    name = "ollama"
    path = "/api/chat"
    content_type = "application/x-ndjson"
    limits = ()  # its limit stands among its options

    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request for a backend of this schema."""
        return render.render_request(conversation, target)

    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Names of features that no backend of this schema can serve."""
        return render.refuses(conversation)

    def patch_request(self, body: bytes, target: Target) -> bytes:
        """Replace the model and the limit; all else keeps its bytes (usage is always reported)."""
        fields = TopLevel(body)
        changed = edits(fields, target, self.limits)
        if target.granted is not None:
            changed["options"] = limit_in_options(fields.get("options"), target.granted)
        return fields.edit(changed)

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole answer; the last event is Done, or the only one a Failure."""
        return answers.parse_response(body)

    def stream_parser(self) -> answers.OllamaParser:
        """A new parser for one upstream stream."""
        return answers.OllamaParser()

    def stream_decoder(self) -> NdjsonDecoder:
        """A new decoder of the stream's lines."""
        return NdjsonDecoder()

    def usage_in_event(self, event: ServerSentEvent) -> bool:
        """Every line is parsed: there is no client whose bytes could pass."""
        return True
