"""The headers of an answer: which of the provider's are taken away, which are ours."""

from __future__ import annotations

from collections.abc import Mapping

from extproc import names
from extproc.core.errors import Problem
from extproc.core.events import Reply, header_text
from extproc.schemas.base import ClientSchema

_STRIPPED = (
    "content-length", "content-encoding", "content-type", "transfer-encoding", "server", "set-cookie", "alt-svc", "via",
    "retry-after", names.RETRY, names.CLUSTER, names.BACKEND, names.COST_USD, names.ATTEMPTS,
)
_STRIPPED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "anthropic-organization", "openai-organization",
                      "anthropic-workspace", "openai-project", "x-extproc-", "cf-")


def headers(content_type: str, length: int | None, backend: str, model: str, attempt: int,
            warnings: str) -> dict[str, str]:
    """The headers of an answer that an attempt gives; `length` in bytes, None for a stream."""
    made = {
        "content-type": content_type, names.BACKEND: backend, names.MODEL: header_text(model),
        names.ATTEMPTS: str(attempt),
    }
    if length is not None:
        made["content-length"] = str(length)
    if warnings:
        made[names.WARNINGS] = header_text(warnings)
    return made


def removed(response: Mapping[str, str], kept: Mapping[str, str]) -> tuple[str, ...]:
    """The names of a provider's headers that no client is to see; `kept`: those that are written anew."""
    return tuple(name for name in response
                 if name not in kept and (name in _STRIPPED or name.startswith(_STRIPPED_PREFIXES)))


def reply(problem: Problem, client: ClientSchema, rid: str, more: Mapping[str, str]) -> Reply:
    """An answer that no backend gave; `more`: its headers besides those of the problem."""
    made = {"content-type": "application/json", **more}
    if problem.retry_after is not None:
        made["retry-after"] = str(problem.retry_after)
    if problem.should_retry is not None:
        made["x-should-retry"] = "true" if problem.should_retry else "false"
    return Reply(problem.http_status, made, client.render_error(problem, rid))
