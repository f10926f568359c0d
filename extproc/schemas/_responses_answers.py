"""OpenAI Responses: usage, output items, whole answers and failures.

Source: PyPI openai 3.54.0, types/responses/response.py, response_usage.py and response_output_item.py.
"""

from __future__ import annotations

import re
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
    ToolStart,
    UsageReport,
)
from extproc.core.errors import Problem, UpstreamError
from extproc.core.usage import Terms, Tokens, count, searches, term
from extproc.schemas import _responses_builtin as builtin
from extproc.schemas._codec import ANY, decode_answer, encode
from extproc.schemas._openai_family import render_error
from extproc.schemas._problems import read_failure
from extproc.schemas._responses_thoughts import closing, read_reasoning
from extproc.schemas._usage import details, disjoint, known

Item = dict[str, Any]
_STOP: dict[str, StopReason] = {"max_output_tokens": "length", "content_filter": "filtered"}
INCOMPLETE: dict[StopReason, str] = {
    "length": "max_output_tokens", "context": "max_output_tokens", "filtered": "content_filter",
}
"""Stop reason -> why a response is incomplete; any other reason completes it."""
_CODES = frozenset({
    "invalid_prompt", "data_residency_mismatch", "bio_policy", "misalignment_policy_violation", "invalid_image",
    "invalid_image_format", "invalid_base64_image", "invalid_image_url", "image_too_large", "image_too_small",
    "image_parse_error", "image_content_policy_violation", "invalid_image_mode", "image_file_too_large",
    "unsupported_image_media_type", "empty_image_file", "failed_to_download_image", "image_file_not_found",
})
"""Error codes of a failed response that say the request was at fault."""
_FAILED_CODES = {
    "rate_limit": "rate_limit_exceeded", "quota": "insufficient_quota", "context_length": "context_length_exceeded",
    "invalid_request": "invalid_prompt", "too_large": "invalid_prompt",
}
"""Problem kind -> code of a failed response; Codex tells a full context and a used-up quota by them."""
_LAST = 2**31 - 1


class Response(msgspec.Struct):
    """A response object, whole or inside an event. `output` is decoded only where it is needed."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: msgspec.Raw = msgspec.Raw()
    usage: Any = None
    error: Any = None
    incomplete_details: Any = None
    service_tier: Any = None


_RESPONSE = msgspec.json.Decoder(Response)
_OUTPUT = msgspec.json.Decoder(list[dict[str, Any]] | None)


def read_usage(usage: object) -> Tokens | None:
    """Disjoint token classes of a usage object; None when it holds none.

    input_tokens includes cached and written ones, output_tokens includes reasoning.
    """
    if not isinstance(usage, dict):
        return None
    given = cast(dict[str, object], usage)
    into, out = details(given, "input_tokens_details"), details(given, "output_tokens_details")
    return disjoint(
        prompt=count(given.get("input_tokens")), cached=count(into.get("cached_tokens")),
        written=count(into.get("cache_write_tokens")), completion=count(given.get("output_tokens")),
        reasoning=count(out.get("reasoning_tokens")))


def render_usage(tokens: Tokens) -> dict[str, Any] | None:
    """The usage object of a client, None when nothing is known. Strict clients fail on an absent detail."""
    if not known(tokens):
        return None
    total_in, total_out = tokens.total_input or 0, tokens.total_output or 0
    return {
        "input_tokens": total_in,
        "input_tokens_details": {
            "cached_tokens": tokens.cache_read or 0, "cache_write_tokens": tokens.cache_write},
        "output_tokens": total_out,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning or 0},
        "total_tokens": total_in + total_out,
    }


class Content(msgspec.Struct):
    """The events of one output item, and whether it holds a call or a refusal."""

    events: list[Event]
    call: bool = False
    refused: bool = False


def read_item(item: Item, number: int) -> Content:
    """What a finished output item says; a tool call gets this number. Items of OpenAI's own servers say nothing."""
    match item.get("type"):
        case "message":
            return _read_message(item)
        case "reasoning":
            thought = read_reasoning(item)
            events: list[Event] = [ThinkingDelta(thought.text)] if thought.text else []
            end = closing(thought)
            return Content(events if end is None else [*events, end])
        case "function_call" | "custom_tool_call":
            arguments = arguments_of(item)
            return Content(_call(tool_start(item, number), arguments), call=True)
        case str() as kind if kind in builtin.CALLS:
            start = ToolStart(number, text_of(item, "call_id") or text_of(item, "id"), builtin.CALLS[kind],
                              namespace=builtin.BUILTIN)
            return Content(_call(start, encode(builtin.read_call(item) or {}).decode()), call=True)
        case _:
            return Content([])


def _call(start: ToolStart, arguments: str) -> list[Event]:
    return [start, ToolDelta(start.index, arguments)] if arguments else [start]


def tool_start(item: Item, number: int) -> ToolStart:
    """The beginning of a function or custom tool call."""
    custom = item.get("type") == "custom_tool_call"
    return ToolStart(number, text_of(item, "call_id") or text_of(item, "id") or f"call_{number}",
                     text_of(item, "name"), "custom" if custom else "function", text_of(item, "namespace") or None)


def arguments_of(item: Item) -> str:
    """The arguments or the raw input of a call item; some servers send the object itself."""
    given = item.get("input" if item.get("type") == "custom_tool_call" else "arguments")
    return given if isinstance(given, str) else "" if given is None else encode(given).decode()


def text_of(item: Item, key: str) -> str:
    """A field's text; empty when it has none."""
    value = item.get(key)
    return value if isinstance(value, str) else ""


def _read_message(item: Item) -> Content:
    content = Content([])
    parts = item.get("content")
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, dict):
            continue
        text = text_of(part, "text") or text_of(part, "refusal")
        content.refused = content.refused or part.get("type") == "refusal"
        if text:
            content.events.append(TextDelta(text))
    return content


def read_output(response: Response) -> Content:
    """The events of all output items. Raises UpstreamError when they make no sense."""
    items = decode_answer(_OUTPUT, bytes(response.output)) if bytes(response.output) else None
    whole = Content([])
    calls = 0
    for item in items or ():
        content = read_item(item, calls)
        calls += content.call
        whole.events += content.events
        whole.refused = whole.refused or content.refused
    whole.call = calls > 0
    return whole


def read_end(response: Response, *, has_tools: bool, refused: bool, raw: bytes) -> list[Event]:
    """The events that end an answer: usage, then the stop reason and Done, or a Failure."""
    tokens = read_usage(response.usage)
    terms = Terms(term(response.service_tier), None, _searches(response))
    events: list[Event] = [] if tokens is None else [UsageReport(tokens, terms)]
    match response.status:
        case "failed" | "cancelled":
            return [*events, read_problem_of(response, raw)]
        case "queued" | "in_progress":
            reason: StopReason = "pause"  # it goes on in the background
        case "incomplete":
            reason = _STOP.get(text_of(_details(response), "reason"), "end")
        case _:
            reason = "filtered" if refused else "tool_use" if has_tools else "end"
    return [*events, Stop(reason), Done()]


def _searches(response: Response) -> int | None:
    """The web searches of an answer; opening and reading a page found is not billed as one. None: it held none."""
    if b'"web_search_call"' not in bytes(response.output):
        return None
    return searches(sum(item.get("type") == "web_search_call" and _is_search(item.get("action"))
                        for item in decode_answer(_OUTPUT, bytes(response.output)) or ()))


def _is_search(action: object) -> bool:
    return not isinstance(action, dict) or cast(Item, action).get("type", "search") == "search"


def _details(response: Response) -> Item:
    details = response.incomplete_details
    return cast(Item, details) if isinstance(details, dict) else {}


def read_problem_of(response: Response, raw: bytes) -> Failure:
    """The failure that a response tells."""
    error = response.error
    if not isinstance(error, dict):
        return Failure("upstream", f"the backend's response {response.status or 'failed'}", 502, raw)
    code = text_of(error, "code")
    if code in _CODES and not error.get("type"):
        error = {**error, "type": "invalid_request_error"}
    return read_failure(error, raw)


_STATUSES = ("completed", "incomplete", "failed", "cancelled", "queued", "in_progress")


def parse_response(body: bytes) -> Sequence[Event]:
    """The events of a whole answer, ending in Done, or in Failure for an error.

    Raises:
        UpstreamError: the body is no answer.
    """
    response = decode_answer(_RESPONSE, body)
    if response.error and not bytes(response.output):
        return (read_failure(decode_answer(ANY, body), body),)
    if not bytes(response.output) and response.status not in _STATUSES:
        raise UpstreamError("the backend's answer has no output")
    content = read_output(response)
    start = Start(response.id or "", response.model or "")
    return [start, *content.events,
            *read_end(response, has_tools=content.call, refused=content.refused, raw=body)]


# ------------------------------------------------------------------------------------------------ for the client


def answer_id(given: str, fallback: str) -> str:
    """The provider's id when it has OpenAI's form, else one made of the fallback."""
    return given if given.startswith("resp_") else f"resp_{re.sub(r'[^A-Za-z0-9_-]', '', fallback)}"


def envelope(
    identifier: str, *, model: str, created: int, status: str, output: Iterable[Item] = (),
    usage: dict[str, Any] | None = None, reason: str | None = None, error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A response object with every field that OpenAI's own has; what the answer does not tell has its default."""
    return {
        "id": identifier,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": None if reason is None else {"reason": reason},
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": model,
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": None,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
    }


def render_stream_error(problem: Problem, request_id: str) -> bytes:
    """The event that ends a stream after an error: `response.failed`, which Codex reads, with the error object beside
    the response, at which the official SDKs raise. Its number is above all that came before."""
    told = ANY.decode(render_error(problem, request_id))
    message = problem.message
    if problem.kind == "rate_limit" and problem.retry_after is not None:
        message = f"{message} Please try again in {problem.retry_after}s."  # Codex waits as long as these words say
    error = {"code": _FAILED_CODES.get(problem.kind, "server_error"), "message": message}
    response = envelope(answer_id("", request_id), model="", created=0, status="failed", error=error)
    event = {"type": "response.failed", "response": response, "error": told["error"], "sequence_number": _LAST}
    return b"event: response.failed\ndata: " + encode(event) + b"\n\n"
