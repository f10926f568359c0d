"""Every error a client can get: whose fault, which HTTP status, which words. Schemas only shape them."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal[
    "invalid_request", "authentication", "permission", "not_found", "too_large", "unsupported_media",
    "rate_limit", "quota", "context_length", "upstream", "overloaded", "timeout", "unavailable", "internal",
]

STATUS: dict[str, int] = {
    "invalid_request": 400, "authentication": 401, "permission": 403, "not_found": 404, "too_large": 413,
    "unsupported_media": 415, "rate_limit": 429, "quota": 429, "context_length": 400, "upstream": 502,
    "overloaded": 503, "timeout": 504, "unavailable": 503, "internal": 500,
}


class Problem(msgspec.Struct, frozen=True):
    """One error to be told to the client. `message` is ours or a provider's and never holds a prompt or a key."""

    kind: Kind
    message: str
    param: str | None = None
    status: int = 0
    retry_after: int | None = None
    should_retry: bool | None = None

    @property
    def http_status(self) -> int:
        """The HTTP status: an explicit one (a provider's own), else the kind's."""
        return self.status or STATUS[self.kind]


class GatewayError(Exception):
    """Root of the errors that carry an answer for the client. Never thrown directly."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class RequestError(GatewayError):
    """The client's fault: the request cannot be understood or served."""

    def __init__(self, message: str, *, kind: Kind = "invalid_request", param: str | None = None) -> None:
        super().__init__(Problem(kind, message, param))


class UpstreamError(GatewayError):
    """The provider's fault: what it sent cannot be understood."""

    def __init__(self, message: str, *, kind: Kind = "upstream") -> None:
        super().__init__(Problem(kind, message))
