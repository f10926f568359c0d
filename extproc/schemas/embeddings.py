"""OpenAI embeddings, `/v1/embeddings`: vectors pass through as they are, only the tokens are read.

Source: PyPI openai 3.54.0, types/embedding_create_params.py and types/create_embedding_response.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from extproc.core.conversation import Conversation, Done, Event, Message, Start, Text, UsageReport
from extproc.core.errors import RequestError, UpstreamError
from extproc.core.usage import Tokens, count
from extproc.schemas import _prompt as prompts
from extproc.schemas._codec import ANY, decode, decode_answer, labels, unmapped_fields
from extproc.schemas._openai_family import OpenAIFamily
from extproc.schemas._passing import edits
from extproc.schemas._problems import read_failure
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel
from extproc.wire.sse import ServerSentEvent

_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user", "stream"})
_NOT_STREAMED = "embeddings are not streamed"


class _Request(msgspec.Struct):
    model: str
    input: str | list[Any]
    dimensions: int | None = None
    encoding_format: str | None = None
    user: str | None = None
    stream: bool | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = None


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    model: str | None = None
    object: str | None = None
    usage: _Usage | None = None
    error: Any = None


_REQUEST = msgspec.json.Decoder(_Request)
_ANSWER = msgspec.json.Decoder(_Answer)


class Embeddings(OpenAIFamily):
    """Embeddings, as OpenAI and its many imitators speak them."""

    name = "embeddings"
    path = "/v1/embeddings"
    limits = ()

    def parse_request(self, body: bytes) -> Conversation:
        """Parse a client's request; raise RequestError naming the field when it is wrong."""
        request = decode(_REQUEST, body)
        prompts.check(request.model, dimensions=request.dimensions)
        if request.stream:
            raise RequestError(f"stream: {_NOT_STREAMED}", param="stream")
        texts, _ = prompts.read_texts(request.input, "input")
        own = {"input": request.input, "dimensions": request.dimensions, "encoding_format": request.encoding_format}
        return Conversation(
            model=request.model,
            messages=(Message("user", tuple(Text(text) for text in texts)),),
            task="embeddings",
            user=request.user,
            extras={name: value for name, value in own.items() if value is not None},
            unmapped=labels(unmapped_fields(body, _KNOWN)),
        )

    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request that this schema has parsed; raise RequestError for any other."""
        if conversation.task != "embeddings":
            raise RequestError("a conversation cannot be embedded", param="messages")
        fields: dict[str, Any] = {"model": target.model, **conversation.extras}
        if conversation.user is not None:
            fields["user"] = conversation.user
        return Rendered(fields, conversation.unmapped)

    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Anything but embeddings."""
        return () if conversation.task == "embeddings" else (conversation.task,)

    def patch_request(self, body: bytes, target: Target) -> bytes:
        """Replace the model; all else keeps its bytes."""
        fields = TopLevel(body)
        return fields.edit(edits(fields, target, self.limits))

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """The tokens of an answer, ending in Done, or in Failure for an error object; raise UpstreamError on
        nonsense."""
        answer = decode_answer(_ANSWER, body)
        if answer.error or answer.object == "error":
            return (read_failure(decode_answer(ANY, body), body),)
        if answer.data is None:
            raise UpstreamError("the backend's answer has no embeddings")
        tokens = Tokens(input=count(answer.usage.prompt_tokens) if answer.usage else None, output=0)
        return (Start("", answer.model or ""), UsageReport(tokens), Done())

    def render_response(self, events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
        """Raise UpstreamError: the events of an answer do not hold its vectors, which pass through as bytes."""
        raise UpstreamError("embeddings can only be passed through")

    def stream_parser(self) -> _NoStream:
        """A parser that refuses whatever comes."""
        return _NoStream()

    def stream_renderer(self, *, model: str, created: int, fallback_id: str, include_usage: bool) -> _NoStreamRenderer:
        """A renderer that refuses whatever comes."""
        return _NoStreamRenderer()

    def usage_in_event(self, event: ServerSentEvent) -> bool:
        """There are no events: the first one is looked at, and refused."""
        return True


class _NoStream:
    """Takes no stream."""

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Raise UpstreamError."""
        raise UpstreamError(_NOT_STREAMED)


class _NoStreamRenderer:
    """Makes no stream."""

    def feed(self, event: Event) -> bytes:
        """Raise UpstreamError."""
        raise UpstreamError(_NOT_STREAMED)
