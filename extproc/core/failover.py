"""What follows from an attempt that failed: whether another backend may help, and in whose words the client is told."""

from __future__ import annotations

from collections.abc import Container, Mapping

from extproc.core.errors import Problem
from extproc.schemas.base import ClientSchema

_CAUSE: dict[str, str] = {
    "rate_limit": "429", "quota": "429", "overloaded": "overloaded", "context_length": "context_too_long",
    "not_found": "not_found", "timeout": "5xx", "unavailable": "5xx",
}
"""Kind of problem -> its word in `failover.on`; one that is not here is the request's own."""


def helps(problem: Problem, status: int, causes: Container[str]) -> bool:
    """Whether another backend may do better, of a problem that came with this status of the provider (0: none)."""
    if problem.kind == "upstream":
        return ("credentials" if status in (401, 402, 403) else "5xx") in causes
    return _CAUSE.get(problem.kind, "") in causes


def readable(problem: Problem, status: int, headers: Mapping[str, str], body: bytes, client: ClientSchema) -> bool:
    """Whether clients of the schema that the provider speaks, too, may have its own words: its error `body`."""
    if status < 400 or not body or problem.http_status != status:
        return False
    if not headers.get("content-type", "").startswith("application/json"):
        return False
    # Clients know a prompt over the context by OpenAI's code; the words of local servers differ.
    return (problem.kind != "context_length" or client.family == "anthropic"
            or b"context_length_exceeded" in body)
