"""Reading providers' errors of any shape: OpenAI's, Anthropic's, FastAPI's, Ollama's, an HTML page."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from extproc.core.conversation import Failure
from extproc.core.errors import Kind, Problem, RequestError
from extproc.schemas._codec import ANY, FOREIGN_ERRORS, compact

MAX_TEXT = 500
_MAX_DEPTH = 8
_STATUS_BY_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
}
_CONTEXT = (
    "prompt is too long",
    "context_length_exceeded",
    "maximum context length",
    "exceed_context_size_error",
    "exceeds the available context size",
    "longer than the context length",
    "exceeds the context length",
)
_CREDENTIALS = frozenset({"invalid_api_key", "authentication_error", "permission_error"})
_KEY_LIKE = re.compile(r"(?:\bsk-|\bBearer\s+|\bAIza|\bgsk_|\bxai-)[\w.*-]{4,}", re.IGNORECASE)
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]{0,2000}>", re.DOTALL | re.IGNORECASE)
_REFUSED = "the backend refused the gateway's credentials"


class _Told(NamedTuple):
    """What an error body says."""

    message: str
    words: frozenset[str]  # its type and code
    code: int = 0
    param: str | None = None


def read_problem(status: int, body: bytes) -> Problem:
    """Map any error answer to a Problem; never raises. A status below 400 is taken from the body's words."""
    return _classify(status, _told(body))


def read_failure(value: Any, raw: bytes) -> Failure:
    """Map an error object that came in place of an answer, or in the middle of one."""
    problem = _classify(0, _from_value(value) or _Told(_clean(raw), frozenset()))
    return Failure(problem.kind, problem.message, problem.http_status, raw)


def _told(body: bytes) -> _Told:
    try:
        value = ANY.decode(body)
    except FOREIGN_ERRORS:
        return _Told(_clean(_MARKUP.sub(" ", body[:20000].decode("utf-8", "replace"))), frozenset())
    return _from_value(value) or _Told(_clean(body), frozenset())


def _from_value(value: Any) -> _Told | None:
    """Read the known shapes; None when it is none of them."""
    for _ in range(_MAX_DEPTH):
        if isinstance(value, list) and value:  # Google's OpenAI-compatible route wraps its errors in a list
            value = value[0]
        elif isinstance(value, dict) and value.get("error"):
            value = value["error"]
        else:
            break
    if isinstance(value, str):
        return _Told(_clean(value), frozenset())
    if not isinstance(value, dict):
        return None
    text = value.get("message") or value.get("detail") or value.get("msg")
    code = value.get("code")
    words = frozenset(word for word in (value.get("type"), code) if isinstance(word, str))
    number = (
        int(code)
        if isinstance(code, int) or (isinstance(code, str) and code.isdecimal() and len(code) == 3)
        else 0
    )
    param = value.get("param")
    if isinstance(text, list | dict):
        text = _written(text)
    if not text and not words:
        return None
    return _Told(
        _clean(text or " ".join(words)),
        words,
        number if 400 <= number < 600 else 0,
        param if isinstance(param, str) else None,
    )


def _written(value: Any) -> str:
    """A nested value as text."""
    try:
        return compact(value)
    except (RequestError, RecursionError):
        return "an error of great depth"


def _clean(text: object) -> str:
    if isinstance(text, bytes):
        text = text[: 4 * MAX_TEXT].decode("utf-8", "replace")
    line = " ".join(str(text)[: 8 * MAX_TEXT].split())
    return _KEY_LIKE.sub("[REDACTED]", line)[:MAX_TEXT]


def _classify(status: int, told: _Told) -> Problem:
    if not 400 <= status < 600:  # no error status of HTTP (RFC 9110, section 15): the words decide
        status = 502 if status >= 600 else _status_of(told)
    message = told.message or f"the backend answered with status {status}"
    if status in (401, 403) or told.words & _CREDENTIALS:
        return Problem("upstream", _REFUSED, status=502)
    if status <= 500 and status not in (402, 404, 429) and _overlong(told):
        return Problem("context_length", message, told.param, 400)
    kind, shown = _kind(status, told.words)
    return Problem(kind, message, told.param, shown)


def _kind(status: int, words: frozenset[str]) -> tuple[Kind, int]:
    table: dict[int, tuple[Kind, int]] = {
        402: ("quota", 402),
        404: ("not_found", 404),
        408: ("timeout", 504),
        413: ("too_large", 413),
        504: ("timeout", 504),
        529: ("overloaded", 529),
    }
    if status == 429:
        quota = "insufficient_quota" in words or "billing_error" in words
        return ("quota" if quota else "rate_limit"), 429
    if "overloaded_error" in words:
        return "overloaded", status
    if status in table:
        return table[status]
    return ("invalid_request", status) if status < 500 else ("upstream", status)


def _status_of(told: _Told) -> int:
    if told.code:
        return told.code
    known = [_STATUS_BY_TYPE[word] for word in told.words if word in _STATUS_BY_TYPE]
    return max(known) if known else 400 if _overlong(told) else 502


def _overlong(told: _Told) -> bool:
    text = told.message.lower()
    return bool(told.words & set(_CONTEXT)) or any(sign in text for sign in _CONTEXT)
