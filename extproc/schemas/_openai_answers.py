"""OpenAI Chat Completions: usage, whole answers and errors, both directions.

Source: PyPI openai 3.54.0, types/chat/chat_completion.py and types/completion_usage.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from extproc.core.conversation import (
    Done,
    Event,
    Failure,
    Start,
    Stop,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolKind,
    ToolStart,
    UsageReport,
)
from extproc.core.errors import Problem, UpstreamError
from extproc.core.usage import Terms, Tokens, count, term
from extproc.schemas._answer import Block, gather
from extproc.schemas._codec import decode_answer, encode, known, split
from extproc.schemas._problems import read_failure

_STOP: dict[str, StopReason] = {
    "stop": "end",
    "length": "length",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "filtered",
    "model_length": "context",
}
_BROKEN = frozenset({"error", "insufficient_system_resource"})
"""Mistral's and DeepSeek's finish reasons for an answer that failed underway."""
FINISH: dict[StopReason, str] = {
    "end": "stop",
    "length": "length",
    "tool_use": "tool_calls",
    "stop_sequence": "stop",
    "filtered": "content_filter",
    "pause": "stop",
    "context": "length",
}
_ERRORS: dict[str, tuple[str, str | None]] = {
    "invalid_request": ("invalid_request_error", None),
    "authentication": ("authentication_error", "invalid_api_key"),
    "permission": ("permission_error", "permission_denied"),
    "not_found": ("invalid_request_error", "model_not_found"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "unsupported_media": ("invalid_request_error", "unsupported_media_type"),
    "rate_limit": ("rate_limit_error", "rate_limit_exceeded"),
    "quota": ("insufficient_quota", "insufficient_quota"),
    "context_length": ("invalid_request_error", "context_length_exceeded"),
    "upstream": ("server_error", "upstream_error"),
    "overloaded": ("server_error", "overloaded"),
    "timeout": ("server_error", "timeout"),
    "unavailable": ("server_error", "service_unavailable"),
    "internal": ("server_error", "internal_error"),
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class CallDelta(msgspec.Struct):
    """A tool call, whole or a fragment of it; `custom` is that of a freeform tool."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None

    @property
    def kind(self) -> ToolKind:
        """Which of the two it is."""
        return "function" if self.custom is None else "custom"

    @property
    def name(self) -> str:
        """The tool's name, where this fragment has it."""
        named = self.function if self.custom is None else self.custom
        return "" if named is None else named.name or ""

    @property
    def text(self) -> str:
        """The arguments, or the raw input, of this fragment; some servers send the argument object itself."""
        if self.custom is not None:
            return self.custom.input or ""
        arguments = None if self.function is None else self.function.arguments
        return arguments or "" if arguments is None or isinstance(arguments, str) else encode(arguments).decode()


class Delta(msgspec.Struct):
    """A message, whole or a fragment of it."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None


class Choice(msgspec.Struct):
    """One choice of an answer or a chunk."""

    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """A stream chunk, or a whole answer: they differ in `delta` and `message` only."""

    id: str | None = None
    object: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    service_tier: Any = None


CHUNK = msgspec.json.Decoder(Chunk)
_ANY = msgspec.json.Decoder()


def read_usage(usage: object) -> Tokens | None:
    """Disjoint token classes of a usage object; None when it holds none.

    prompt_tokens includes cached and written ones, completion_tokens includes reasoning; DeepSeek's
    prompt_cache_hit_tokens is read when prompt_tokens_details is absent, never both.
    """
    if not isinstance(usage, dict):
        return None
    given = cast(dict[str, object], usage)
    details, cut = _inner(given, "prompt_tokens_details"), _inner(given, "completion_tokens_details")
    cached = count(details.get("cached_tokens"))
    hit, miss = count(given.get("prompt_cache_hit_tokens")), count(given.get("prompt_cache_miss_tokens"))
    cached = hit if cached is None else cached
    prompt = count(given.get("prompt_tokens"))
    if prompt is None and hit is not None and miss is not None:
        prompt = hit + miss
    fresh, read, written = split(prompt, cached, count(details.get("cache_write_tokens")))
    output, reasoning, _ = split(count(given.get("completion_tokens")), count(cut.get("reasoning_tokens")))
    if fresh is None and output is None:
        return None
    return Tokens(input=fresh, cache_read=read, cache_write_5m=written, output=output, reasoning=reasoning)


def read_report(answer: Chunk) -> UsageReport | None:
    """The usage that a chunk or an answer holds; None: none. OpenAI's search models search once for every answer."""
    tokens = read_usage(answer.usage)
    if tokens is None:
        return None
    searches = 1 if "-search-" in (answer.model or "") else None
    return UsageReport(tokens, Terms(term(answer.service_tier), None, searches))


def _inner(usage: dict[str, object], key: str) -> dict[str, object]:
    value = usage.get(key)
    return cast(dict[str, object], value) if isinstance(value, dict) else {}


def render_usage(tokens: Tokens) -> dict[str, Any] | None:
    """The usage object of a client, or None when nothing is known."""
    if not known(tokens):
        return None
    prompt, completion = tokens.total_input or 0, tokens.total_output or 0
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    details = {"cached_tokens": tokens.cache_read or 0}
    if tokens.cache_write:
        details["cache_write_tokens"] = tokens.cache_write
    usage["prompt_tokens_details"] = details
    usage["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning or 0}
    return usage


def read_content(content: str | list[Any] | None) -> list[Event]:
    """The events of a content field: a string, or Mistral's list of text and thinking parts."""
    if content is None or isinstance(content, str):
        return [TextDelta(content)] if content else []
    events: list[Event] = []
    for part in content:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":
            thought = part.get("thinking")
            if isinstance(thought, str | list):
                said = read_content(cast("str | list[Any]", thought))
                events += [ThinkingDelta(event.text) for event in said if isinstance(event, TextDelta)]
        elif isinstance(text := part.get("text"), str) and text:
            events.append(TextDelta(text))
    return events


def read_message(delta: Delta) -> list[Event]:
    """The thinking and text events of a message or a delta."""
    thought = delta.reasoning_content or delta.reasoning
    events: list[Event] = []
    if thought and isinstance(thought, str):
        events.append(ThinkingDelta(thought))
    if delta.content:
        events += read_content(delta.content)
    if delta.refusal:
        events.append(TextDelta(delta.refusal))
    return events


def read_stop(reason: str, has_tools: bool, raw: bytes) -> Stop | Failure:
    """The neutral stop reason. Many servers say `stop` after tool calls."""
    if reason in _BROKEN:
        return Failure("unavailable", f"the backend gave up: {reason}", 503, raw)
    neutral = _STOP.get(reason, "end")
    return Stop("tool_use" if neutral == "end" and has_tools else neutral)


def is_error(chunk: Chunk) -> bool:
    """Whether it is an error in place of an answer (200 and in-stream errors happen)."""
    return bool(chunk.error) or chunk.object == "error"


def parse_response(body: bytes) -> Sequence[Event]:
    """The events of a whole answer, ending in Done, or in Failure for an error object.

    Raises:
        UpstreamError: the body is no answer.
    """
    answer = decode_answer(CHUNK, body)
    if is_error(answer):
        return (read_failure(decode_answer(_ANY, body), body),)
    choice = next((choice for choice in answer.choices or () if not choice.index), None)
    if choice is None or choice.message is None:
        raise UpstreamError("the backend's answer has no choices")
    message = choice.message
    events: list[Event] = [Start(answer.id or "", answer.model or ""), *read_message(message)]
    calls = message.tool_calls or []
    for index, call in enumerate(calls):
        events += _whole_call(index, call, answer.id or "")
    if (report := read_report(answer)) is not None:
        events.append(report)
    events += [read_stop(choice.finish_reason or "stop", bool(calls), body), Done()]
    return events


def _whole_call(index: int, call: CallDelta, answer_id: str) -> tuple[Event, ...]:
    identifier = call.id or made_id(answer_id, index)
    return ToolStart(index, identifier, call.name, call.kind), ToolDelta(index, call.text)


def made_id(answer_id: str, index: int) -> str:
    """A tool call id for a server that gives none, unique over the turns of a conversation."""
    return f"call_{answer_id[-24:]}_{index}" if answer_id else f"call_{index}"


def render_response(events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
    """The chat.completion object; raise UpstreamError when the events hold a Failure."""
    answer = gather(events)
    text, thought, calls = answer.text("text"), answer.text("thinking"), answer.tools()
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": None,
    }
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [_render_call(call) for call in calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": FINISH[answer.stop]}
    return encode(
        {
            "id": answer_id(answer.id, fallback_id),
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [choice],
            "usage": render_usage(answer.tokens),
        }
    )


def _render_call(call: Block) -> dict[str, Any]:
    if call.tool_kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.text}}
    function = {"name": call.name, "arguments": call.text or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def answer_id(given: str, fallback: str) -> str:
    """The provider's id when it has OpenAI's form."""
    return given if given.startswith("chatcmpl-") else fallback


def render_error(problem: Problem, request_id: str) -> bytes:
    """OpenAI's error object, with the request id beside it."""
    kind, code = _ERRORS[problem.kind]
    if problem.kind == "not_found" and problem.param not in (None, "model"):
        code = None  # a path, or a request that feedback names
    error = {"message": problem.message, "type": kind, "param": problem.param, "code": code}
    return encode({"error": error, "request_id": request_id})
