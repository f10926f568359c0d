"""OpenAI's legacy completions, `/v1/completions`: a prompt is continued, or with `suffix` its middle filled in.

Source: PyPI openai 3.54.0, types/completion_create_params.py and types/completion.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from extproc.core.conversation import (
    Conversation,
    Done,
    Event,
    Failure,
    Prompt,
    Start,
    Stop,
    TextDelta,
    UsageReport,
)
from extproc.core.errors import RequestError, UpstreamError
from extproc.schemas import _openai_render as chat
from extproc.schemas import _prompt as prompts
from extproc.schemas._answer import gather
from extproc.schemas._codec import ANY, decode, decode_answer, encode, labels, unmapped_fields
from extproc.schemas._openai_answers import is_usage_chunk, read_stop, read_usage, render_usage
from extproc.schemas._openai_family import OpenAIFamily
from extproc.schemas._problems import read_failure
from extproc.schemas._text_stream import TEXT_FINISH, Form, TextStreamRenderer
from extproc.schemas.base import Rendered, Target
from extproc.wire.sse import ServerSentEvent

DEFAULT_MAX_TOKENS = 16
"""What the API means by an absent max_tokens. Elsewhere absent means other things, so it is said aloud."""
_EXTRAS = ("frequency_penalty", "presence_penalty", "logit_bias")
_KNOWN = frozenset({
    "model", "prompt", "suffix", "max_tokens", "stop", "stream", "stream_options", "temperature", "top_p", "seed",
    "user", "n", "best_of", "echo", "logprobs", *_EXTRAS,
})
_FORM = Form("text_completion", b'{"text":', b',"index":0,"logprobs":null,"finish_reason":')
_ID = "cmpl-"


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Request(msgspec.Struct):
    model: str
    prompt: str | list[Any] | None
    suffix: str | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    user: str | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | bool | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    """A stream chunk or a whole answer: they have one form."""

    id: str | None = None
    object: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_REQUEST = msgspec.json.Decoder(_Request)
_CHUNK = msgspec.json.Decoder(_Chunk)
_SAID = frozenset({"seed", "user", *_EXTRAS})
"""Settings beyond the common ones that a request can hold."""


class OpenAICompletions(OpenAIFamily):
    """OpenAI completions, as vLLM, llama.cpp, DeepSeek and Ollama speak them too."""

    name = "completions"
    path = "/v1/completions"

    def parse_request(self, body: bytes) -> Conversation:
        """Parse a client's request; raise RequestError naming the field when it is wrong."""
        return _parse(body)

    def render_request(self, conversation: Conversation, target: Target) -> Rendered:
        """Render a request for a backend of this schema; raise RequestError when there is no prompt."""
        return _render(conversation, target)

    def refuses(self, conversation: Conversation) -> tuple[str, ...]:
        """Names of features that no backend of this schema can serve."""
        return labels(prompts.refused(conversation))

    def patch_request(self, body: bytes, target: Target) -> bytes:
        """Replace the model and make a stream report usage; all else keeps its bytes."""
        return chat.patch_request(body, target, self.limits)

    def parse_response(self, body: bytes) -> Sequence[Event]:
        """Parse a whole answer; the last event is Done, or the only one a Failure."""
        answer = decode_answer(_CHUNK, body)
        choice = next((choice for choice in answer.choices or () if not choice.index), None)
        if choice is None and not _is_error(answer):
            raise UpstreamError("the backend's answer has no choices")
        parser = _StreamParser()
        events = parser.take(answer, body)
        if not isinstance(events[-1], Failure):
            events += [] if choice is not None and choice.finish_reason else [Stop("end")]
            events.append(Done())
        return events

    def render_response(self, events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
        """Render a whole answer; raise UpstreamError when the events hold a Failure."""
        answer = gather(events)
        choice = {"text": answer.text("text"), "index": 0, "logprobs": None, "finish_reason": TEXT_FINISH[answer.stop]}
        out: dict[str, Any] = {
            "id": answer.id if answer.id.startswith(_ID) else fallback_id,
            "object": "text_completion", "created": created, "model": model, "choices": [choice],
        }
        if (usage := render_usage(answer.tokens)) is not None:
            out["usage"] = usage
        return encode(out)

    def stream_parser(self) -> _StreamParser:
        """A new parser for one upstream stream."""
        return _StreamParser()

    def stream_renderer(
        self, *, model: str, created: int, fallback_id: str, include_usage: bool
    ) -> TextStreamRenderer:
        """A new renderer for one client stream."""
        return TextStreamRenderer(
            _FORM, _ID, model=model, created=created, fallback_id=fallback_id, include_usage=include_usage)

    def hides_from_client(self, event: ServerSentEvent, include_usage: bool) -> bool:
        """Whether this is the usage chunk (empty choices) that the client did not ask for."""
        return not include_usage and is_usage_chunk(event.data)


def _parse(body: bytes) -> Conversation:
    request = decode(_REQUEST, body)
    prompts.check(request.model, max_tokens=request.max_tokens)
    if request.n is not None and request.n < 1:
        raise RequestError(f"n: expected at least 1, got {request.n}", param="n")
    given, ids = prompts.read_texts("" if request.prompt is None else request.prompt, "prompt")
    text, options = "\n".join(given), request.stream_options
    return Conversation(
        model=request.model,
        messages=prompts.as_messages(text, request.suffix),
        task="completion",
        prompt=Prompt(text, request.suffix, bool(request.echo)),
        max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        stream=bool(request.stream),
        stream_usage=bool(options and options.include_usage),
        temperature=request.temperature,
        top_p=request.top_p,
        stop=prompts.stops(request.stop),
        seed=request.seed,
        n=request.n or 1,
        best_of=max(request.n or 1, request.best_of or 1) * _prompts(request.prompt),
        user=request.user,
        extras={name: value for name in _EXTRAS if (value := getattr(request, name)) is not None},
        unmapped=labels(unmapped_fields(body, _KNOWN)),
        demands=_demands(request, len(given), ids),
    )


def _prompts(prompt: Any) -> int:
    """How many prompts there are: each is answered."""
    return max(len(prompt), 1) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _demands(request: _Request, count: int, ids: bool) -> tuple[str, ...]:
    """What only a backend of this schema can do."""
    asked = {
        "prompt:tokens": ids,
        "prompt:list": count > 1,
        "n": (request.n or 1) > 1,
        "best_of": (request.best_of or 1) > 1,
        "echo": bool(request.echo),
        "logprobs": request.logprobs is not None and request.logprobs is not False,
    }
    return tuple(name for name, wanted in asked.items() if wanted)


def _render(conversation: Conversation, target: Target) -> Rendered:
    fields = prompts.common(conversation, target)
    dropped = [*prompts.unsaid(conversation, _SAID), *(name for name in conversation.demands if name != "n")]
    # A server's own default may be 16 tokens or no end at all.
    limit = prompts.limit(conversation, target)
    fields["max_tokens"] = limit if limit is not None else target.max_output or target.default_max_tokens
    if conversation.stop:
        fields["stop"] = conversation.stop  # OpenAI takes 4; the servers that fill in the middle take many
    for name, value in (("seed", conversation.seed), ("user", conversation.user), *conversation.extras.items()):
        if value is not None and name in _SAID:
            fields[name] = value
    if conversation.n > 1:
        fields["n"] = conversation.n
    if conversation.stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return Rendered(fields, labels(dropped))


def _is_error(chunk: _Chunk) -> bool:
    return bool(chunk.error) or chunk.object == "error"


class _StreamParser:
    """Chunks in, events out."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started = False

    def feed(self, event: ServerSentEvent) -> Sequence[Event]:
        """Return the events of one chunk; raise UpstreamError when it makes no sense."""
        data = event.data
        if not data:
            return ()
        if data.startswith(b"[DONE]"):
            return (Done(),)
        return self.take(decode_answer(_CHUNK, data), data)

    def take(self, chunk: _Chunk, data: bytes) -> list[Event]:
        """The events of a decoded chunk."""
        if _is_error(chunk):
            return [read_failure(decode_answer(ANY, data), data)]
        events: list[Event] = []
        if not self._started and (chunk.choices or chunk.id):
            self._started = True
            events.append(Start(chunk.id or "", chunk.model or ""))
        for choice in chunk.choices or ():
            if choice.index:
                continue
            if choice.text:
                events.append(TextDelta(choice.text))
            if choice.finish_reason:
                events.append(read_stop(choice.finish_reason, False, data))
        if chunk.usage is not None and (tokens := read_usage(chunk.usage)) is not None:
            events.append(UsageReport(tokens))
        return events
