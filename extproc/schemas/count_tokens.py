"""Anthropic's token counting, `/v1/messages/count_tokens`: a Messages request without an answer.

Source: PyPI anthropic 2.12.0, types/message_count_tokens_params.py and types/message_tokens_count.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from extproc.core.conversation import Conversation, Done, Event, Start, UsageReport
from extproc.core.errors import RequestError, UpstreamError
from extproc.core.usage import Tokens, count
from extproc.schemas._codec import ANY, decode_answer
from extproc.schemas._problems import read_failure
from extproc.schemas.anthropic_messages import AnthropicMessages
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel

_NOT_COUNTED = frozenset({"max_tokens", "stop_sequences", "stream", "metadata", "temperature", "top_p", "top_k"})
"""Fields of a Messages request that counting does not take."""


class _Answer(msgspec.Struct):
    input_tokens: Any = None
    type: str | None = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


class CountTokens(AnthropicMessages):
    """Anthropic token counting. Counting itself costs nothing; the count is part of the answer, not usage."""

    name = "count_tokens"
    path = "/v1/messages/count_tokens"
    limits = ()

    def parse_request(self, body: bytes) -> Conversation:
        """Parse a client's request; raise RequestError naming the field when it is wrong."""
        fields = TopLevel(body)
        if fields.get("stream") == b"true":
            raise RequestError("stream: a count is not streamed", param="stream")
        # A Messages request must have a limit, a count has none.
        conversation = super().parse_request(fields.edit({"max_tokens": b"1"}))
        return msgspec.structs.replace(conversation, max_tokens=None, task="count")

    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request for a backend of this schema."""
        rendered = super().render_request(conversation, target)
        fields = {name: value for name, value in rendered.fields.items() if name not in _NOT_COUNTED}
        return msgspec.structs.replace(rendered, fields=fields)

    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Anything but counting, and what Anthropic cannot take."""
        return super().refuses(conversation) if conversation.task == "count" else (conversation.task,)

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Check an answer; the last event is Done, or the only one a Failure. Raise UpstreamError on nonsense."""
        answer = decode_answer(_ANSWER, body)
        if answer.error or answer.type == "error":
            return (read_failure(decode_answer(ANY, body), body),)
        if count(answer.input_tokens) is None:
            raise UpstreamError("the backend's answer has no count")
        return (Start(), UsageReport(Tokens(input=0, output=0)), Done())

    def render_response(self, events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
        """Raise UpstreamError: the events of an answer do not hold the count, which passes through as bytes."""
        raise UpstreamError("a token count can only be passed through")
