"""What OpenAI's APIs have in common: the error object that their SDKs read, and how a chunk shows that it tells more
than text."""

from __future__ import annotations

import re

from extproc.core.errors import Problem
from extproc.schemas._codec import encode
from extproc.schemas.base import Schema
from extproc.wire.sse import ServerSentEvent

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
_TELLING = re.compile(rb'"usage"\s*:\s*\{|"finish_reason"\s*:\s*"|"error"')


class OpenAIFamily(Schema):
    """Answers errors as OpenAI does, and reads its chunks."""

    def usage_in_event(self, event: ServerSentEvent) -> bool:
        """Whether the event may hold usage, a finish reason, an error or the end."""
        return event.data.startswith(b"[DONE]") or _TELLING.search(event.data) is not None

    def render_error(self, problem: Problem, request_id: str) -> bytes:
        """The JSON body of an error answer."""
        return render_error(problem, request_id)

    def render_stream_error(self, problem: Problem, request_id: str) -> bytes:
        """The chunk with an error object that the official clients raise on."""
        return b"data: " + render_error(problem, request_id) + b"\n\n"


def render_error(problem: Problem, request_id: str) -> bytes:
    """OpenAI's error object, with the request id beside it."""
    kind, code = _ERRORS[problem.kind]
    if problem.kind == "not_found" and problem.param not in (None, "model"):
        code = None  # a path, or a request that feedback names
    error = {"message": problem.message, "type": kind, "param": problem.param, "code": code}
    return encode({"error": error, "request_id": request_id})
