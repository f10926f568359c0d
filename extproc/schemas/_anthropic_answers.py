"""Anthropic Messages: usage, whole answers and errors, both directions.

Source: PyPI anthropic 2.12.0, types/message.py and types/usage.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from extproc.core.conversation import (
    Done,
    Event,
    Start,
    Stop,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageReport,
)
from extproc.core.errors import Problem, UpstreamError
from extproc.core.usage import Pass, Terms, Tokens, count, searches, term
from extproc.schemas._answer import Block, gather
from extproc.schemas._codec import ANY, decode_answer, encode, json_object, tool_id
from extproc.schemas._problems import read_failure
from extproc.schemas._usage import split

_STOP: dict[str, StopReason] = {
    "end_turn": "end",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_use",
    "pause_turn": "pause",
    "refusal": "filtered",
    "model_context_window_exceeded": "context",
}
STOP_REASON: dict[StopReason, str] = {neutral: name for name, neutral in _STOP.items()}
_ERRORS = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "unsupported_media": "invalid_request_error",
    "rate_limit": "rate_limit_error",
    "quota": "billing_error",
    "context_length": "invalid_request_error",
    "upstream": "api_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "unavailable": "api_error",
    "internal": "api_error",
}
_TOO_LONG = "prompt is too long"


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Message(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Any = None
    error: Any = None


_MESSAGE = msgspec.json.Decoder(_Message)


class UsageState:
    """Usage as the last non-null value per field, over message_start and every message_delta."""

    __slots__ = ("_fields", "_iterations", "_words")

    def __init__(self) -> None:
        self._fields: dict[str, object] = {}
        self._words: dict[str, str] = {}
        self._iterations: list[object] = []

    def update(self, usage: object) -> None:
        """Take the known fields of one usage object in; an absent or null one erases nothing."""
        if not isinstance(usage, dict):
            return
        for key, value in cast(dict[str, object], usage).items():
            if isinstance(value, dict):
                for inner, number in cast(dict[str, object], value).items():
                    self._set(f"{key}.{inner}", number)
            elif key == "iterations" and isinstance(value, list):
                self._iterations = cast(list[object], value)
            else:
                self._set(key, value)

    def tokens(self, *, with_output: bool = True) -> Tokens:
        """Disjoint classes. message_start's output count is a placeholder, hence `with_output`."""
        written, hour = (
            self._get("cache_creation_input_tokens"),
            self._get("cache_creation.ephemeral_1h_input_tokens"),
        )
        five = self._get("cache_creation.ephemeral_5m_input_tokens")
        if written is None and (five is not None or hour is not None):
            written = (five or 0) + (hour or 0)
        five, hour, _ = split(written, hour)
        output, reasoning, _ = split(
            self._get("output_tokens") if with_output else None,
            self._get("output_tokens_details.thinking_tokens"),
        )
        return Tokens(
            input=self._get("input_tokens"),
            cache_read=self._get("cache_read_input_tokens"),
            cache_write_5m=five,
            cache_write_1h=hour,
            output=output,
            reasoning=reasoning,
        )

    def terms(self) -> Terms:
        """The speed if it is a dear one, else the service tier; the region; the web searches."""
        speed = self._words.get("speed")
        return Terms(speed if speed == "fast" else self._words.get("service_tier"), self._words.get("inference_geo"),
                     searches(self._fields.get("server_tool_use.web_search_requests")), self._passes())

    def _passes(self) -> tuple[Pass, ...] | None:
        """The iterations that the counters of the whole do not hold: of an advisor, a compaction.

        Should they hold them after all, the sums tell.
        """
        own, others = 0, list[Pass]()
        for iteration in self._iterations:
            if not isinstance(iteration, dict):
                continue
            one = cast(dict[str, object], iteration)
            state = UsageState()
            state.update(one)
            tokens = state.tokens()
            if one.get("type") == "message":
                own += tokens.total_output or 0
            else:
                others.append(Pass(term(one.get("model")), tokens))
        whole = sum(one.tokens.total_output or 0 for one in others) + own
        if not others or (whole != own and whole == self._get("output_tokens")):
            return None
        return tuple(others)

    def report(self, *, with_output: bool = True) -> UsageReport:
        """All that is known so far."""
        return UsageReport(self.tokens(with_output=with_output), self.terms())

    def _set(self, key: str, value: object) -> None:
        if count(value) is not None:
            self._fields[key] = value
        elif (said := term(value)) is not None:
            self._words[key] = said

    def _get(self, key: str) -> int | None:
        return count(self._fields.get(key))


def render_usage(tokens: Tokens) -> dict[str, Any]:
    """The usage object of a client; its counters are not optional, so unknown ones are 0."""
    usage: dict[str, Any] = {
        "input_tokens": tokens.input or 0,
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cache_read or 0,
        "output_tokens": tokens.total_output or 0,
    }
    if tokens.cache_write_5m is not None or tokens.cache_write_1h is not None:
        usage["cache_creation"] = {
            "ephemeral_5m_input_tokens": tokens.cache_write_5m or 0,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h or 0,
        }
    if tokens.reasoning is not None:
        usage["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
    return usage


def read_stop(reason: str, sequence: str | None) -> Stop:
    """The neutral stop reason; an unknown one is a natural end."""
    return Stop(_STOP.get(reason, "end"), sequence)


def parse_response(body: bytes) -> Sequence[Event]:
    """The events of a whole answer, ending in Done, or one Failure for an error object.

    Raises:
        UpstreamError: the body is no answer.
    """
    message = decode_answer(_MESSAGE, body)
    if message.error or message.type == "error":
        return (read_failure(decode_answer(ANY, body), body),)
    if message.content is None:
        raise UpstreamError("the backend's answer has no content")
    events: list[Event] = [Start(message.id or "", message.model or "")]
    tools = 0
    for block in message.content:
        events += _block(block, tools)
        tools += block.type == "tool_use"
    usage = UsageState()
    usage.update(message.usage)
    events.append(usage.report())
    events += [read_stop(message.stop_reason or "end_turn", message.stop_sequence), Done()]
    return events


def _block(block: _Block, tools: int) -> tuple[Event, ...]:
    match block.type:
        case "text":
            return (TextDelta(block.text),) if block.text else ()
        case "thinking":
            return (ThinkingDelta(block.thinking or "", block.signature or None),)
        case "redacted_thinking":
            return (ThinkingDelta(redacted=block.data or ""),)
        case "tool_use":
            return ToolStart(tools, block.id or "", block.name or ""), ToolDelta(
                tools, bytes(block.input).decode("utf-8", "replace")
            )
        case _:
            return ()  # server tools: their calls and results belong to Anthropic


def render_response(events: Iterable[Event], *, model: str, created: int, fallback_id: str) -> bytes:
    """The message object; raise UpstreamError when the events hold a Failure."""
    answer = gather(events)
    content = [_render_block(block, i) for i, block in enumerate(answer.blocks) if block.kind != "text" or block.text]
    return encode(
        {
            "id": answer_id(answer.id, fallback_id),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": STOP_REASON[answer.stop],
            "stop_sequence": answer.sequence,
            "usage": render_usage(answer.tokens),
        }
    )


def _render_block(block: Block, number: int) -> dict[str, Any]:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": block.text, "signature": block.signature or ""}
        case "redacted":
            return {"type": "redacted_thinking", "data": block.text}
        case "tool":
            arguments = block.text
            value: Any = msgspec.Raw(arguments.encode()) if json_object(arguments) else _broken(arguments)
            return {
                "type": "tool_use",
                "id": tool_id(block.id, prefix="toolu", number=number),
                "name": block.name,
                "input": value,
            }
        case _:
            return {"type": "text", "text": block.text}


def _broken(arguments: str) -> dict[str, str]:
    """Arguments that are no JSON object: the client's tool shall see and refuse them."""
    return {"text": arguments} if arguments.strip() else {}


def answer_id(given: str, fallback: str) -> str:
    """The provider's id when it has Anthropic's form."""
    return given if given.startswith("msg_") else fallback


def render_error(problem: Problem, request_id: str) -> bytes:
    """Anthropic's error object. Claude Code knows an overlong prompt by its wording only."""
    message = problem.message
    if problem.kind == "context_length" and _TOO_LONG not in message.lower():
        message = f"{_TOO_LONG}: {message}"
    return encode(
        {
            "type": "error",
            "error": {"type": _ERRORS[problem.kind], "message": message},
            "request_id": request_id,
        }
    )
