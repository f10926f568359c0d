"""`POST /v1/feedback`: what a client says of an answer it got. Pure.

The caller is known by its key as with any request, and may speak of its own requests only: of anybody else's it learns
not even that they exist.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from extproc.core.errors import RequestError
from extproc.core.identity import Caller
from extproc.core.routing.explanation import Whose
from extproc.core.routing.outcomes import WEIGHTS, Learnable
from extproc.wire.json_splice import TopLevel

LARGEST = 4_096
"""Bytes of a body."""
ACCEPTED = b'{"status":"accepted"}'
"""The answer, with status 202; also to a second word on the same request, which changes nothing."""
Reason = Literal["wrong", "incomplete", "slow", "refused", "format", "other"]
_RID = re.compile(r"[0-9a-f]{32}")
_RATINGS = {"good": 1.0, "bad": 0.0}
_REASONS: tuple[str, ...] = Reason.__args__


class Feedback(msgspec.Struct, frozen=True):
    """What was said. `rating`: 0 (useless) to 1 (as it should be)."""

    request_id: str
    rating: float
    reason: Reason | None = None


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request_id: str
    rating: str | float
    reason: Reason | None = None


_decoder = msgspec.json.Decoder(_Body)
_PATH = re.compile(r"`\$\.([a-z_]+)`")
_FIELD = re.compile(r"field `([^`]{1,64})`")
_EXPECTED = {
    "request_id": "expected the x-extproc-request-id of an answer: 32 hexadecimal digits in lower case",
    "rating": "expected good, bad, or a number from 0 to 1",
    "reason": f"expected one of: {', '.join(_REASONS)}",
}


def parse(body: bytes) -> Feedback:
    """Read a body. Raises RequestError, with the field that is wrong."""
    if len(body) > LARGEST:
        raise RequestError(f"the body has {len(body)} bytes; the limit is {LARGEST}", kind="too_large", param="body")
    TopLevel(body)  # a field given twice is refused
    try:
        given = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refused(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError("the body is not valid JSON", param="body") from error
    if not _RID.fullmatch(given.request_id):
        raise _wrong("request_id")
    rating = _RATINGS.get(given.rating) if isinstance(given.rating, str) else given.rating
    if rating is None or not 0.0 <= rating <= 1.0:
        raise _wrong("rating")
    return Feedback(given.request_id, rating, given.reason)


def _refused(text: str) -> RequestError:
    """The same finding in our words, and the field it is about."""
    if (path := _PATH.search(text)) is not None and path[1] in _EXPECTED:
        return _wrong(path[1])
    field = _FIELD.search(text)
    name = field[1] if field is not None else "body"
    if "missing required" in text:
        return RequestError(f"{name} is required", param=name)
    if "unknown field" in text:
        return RequestError(f"{name} is no field of a feedback; allowed: {', '.join(_EXPECTED)}", param=name)
    return RequestError("the body must be a JSON object", param="body")


def _wrong(field: str) -> RequestError:
    return RequestError(f"{field}: {_EXPECTED[field]}", param=field)


def owns(owner: Whose | None, caller: Caller) -> bool:
    """Whether the request was the caller's own; nobody's is not."""
    return owner is not None and (owner.org, owner.team, owner.key) == (caller.org, caller.team, caller.key)


def unknown(request_id: str) -> RequestError:
    """The error for a request nobody knows, or somebody else's: it must not tell which."""
    return RequestError(f"no request {request_id} of this key is remembered", kind="not_found", param="request_id")


def learnable(feedback: Feedback) -> Learnable | None:
    """What the word counts: the more it is off the middle, the more; None in the middle, and where an answer was only
    slow: how fast a backend is, is measured."""
    if feedback.reason == "slow":
        return None
    weight = round(abs(feedback.rating - 0.5) * 2 * WEIGHTS["feedback"])
    return Learnable(feedback.rating > 0.5, weight, "feedback") if weight else None
