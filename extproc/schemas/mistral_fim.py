"""Mistral's fill-in-the-middle API, `/v1/fim/completions`: prompt and suffix in, an answer in the form of a chat's.

Source: PyPI mistralai 3.7.0, models/fimcompletionrequest.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from extproc.core.conversation import Conversation, Event, Prompt
from extproc.schemas import _openai_answers as answers
from extproc.schemas import _prompt as prompts
from extproc.schemas._codec import decode, labels, unmapped_fields
from extproc.schemas._openai_family import OpenAIFamily
from extproc.schemas._openai_stream import OpenAIStreamParser
from extproc.schemas._passing import edits
from extproc.schemas._text_stream import Form, TextStreamRenderer
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel

_KNOWN = frozenset({
    "model", "prompt", "suffix", "max_tokens", "stop", "stream", "random_seed", "temperature", "top_p", "metadata",
})
_FORM = Form("chat.completion.chunk", b'{"index":0,"delta":{"content":', b'},"finish_reason":', usage_apart=False)
"""Mistral's clients read the first choice of every chunk: usage comes with the finish reason."""


class _Request(msgspec.Struct):
    model: str
    prompt: str
    suffix: str | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    random_seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: dict[str, Any] | None = None


_REQUEST = msgspec.json.Decoder(_Request)


class MistralFim(OpenAIFamily):
    """Fill in the middle, as Mistral speaks it."""

    name = "fim"
    path = "/v1/fim/completions"

    def parse_request(self, body: bytes) -> Conversation:
        """Parse a client's request; raise RequestError naming the field when it is wrong."""
        request = decode(_REQUEST, body)
        prompts.check(request.model, max_tokens=request.max_tokens)
        return Conversation(
            model=request.model,
            messages=prompts.as_messages(request.prompt, request.suffix),
            task="completion",
            prompt=Prompt(request.prompt, request.suffix),
            max_tokens=request.max_tokens,
            stream=bool(request.stream),
            temperature=request.temperature,
            top_p=request.top_p,
            stop=prompts.stops(request.stop),
            seed=request.random_seed,
            extras={} if request.metadata is None else {"metadata": request.metadata},
            unmapped=labels(unmapped_fields(body, _KNOWN)),
        )

    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request for a backend of this schema; raise RequestError when there is no prompt."""
        fields = prompts.common(conversation, target)
        limit = prompts.limit(conversation, target)
        for name, value in (
            ("max_tokens", limit),
            ("stop", conversation.stop or None),
            ("random_seed", conversation.seed),
            ("metadata", conversation.extras.get("metadata")),
        ):
            if value is not None:
                fields[name] = value
        if conversation.stream:
            fields["stream"] = True
        return Rendered(fields, labels(prompts.unsaid(conversation, frozenset({"seed", "metadata"}))))

    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Names of features that no backend of this schema can serve."""
        return labels(prompts.refused(conversation) + (["n"] if conversation.n > 1 else []))

    def patch_request(self, body: bytes, target: Target) -> bytes:
        """Replace the model and the limit; all else keeps its bytes (usage is always reported)."""
        fields = TopLevel(body)
        return fields.edit(edits(fields, target, self.limits))

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole answer; the last event is Done, or the only one a Failure."""
        return answers.parse_response(body)

    def render_response(self, events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
        """Render a whole answer; raise UpstreamError when the events hold a Failure."""
        return answers.render_response(events, model=model, created=created, fallback_id=fallback_id)

    def stream_parser(self) -> OpenAIStreamParser:
        """A new parser for one upstream stream."""
        return OpenAIStreamParser()

    def stream_renderer(
        self, *, model: str, created: int, fallback_id: str, include_usage: bool
    ) -> TextStreamRenderer:
        """A new renderer for one client stream; usage is always part of it."""
        return TextStreamRenderer(
            _FORM, "", model=model, created=created, fallback_id=fallback_id, include_usage=include_usage)
