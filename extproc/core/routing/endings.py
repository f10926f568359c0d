"""What an attempt says of its backend's health: the client's own mistakes and departures say nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from extproc.core.events import End

Kind = Literal["ok", "failed", "overloaded", "rate_limited", "timeout", "broken", "client"]
_TOLERANCE = 20
"""Envoy's deadline and our clock may differ by one part in so many."""
_PROVIDERS = (401, 402, 403, 404, 408)
"""Statuses under 500 that are the provider's or the operator's business: credentials, credit, a missing model."""
_BUSY = 503
"""Local servers say it while they load a model or have no free slot, Google's and proxies when they are overloaded."""
_CLIENTS = ("invalid_request", "context_length", "too_large", "unsupported_media")


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt at a backend (id BACKEND/MODEL) ended. `first_event_ms`: of streams alone."""

    backend: str
    name: str
    kind: Kind
    retry_after_ms: int | None = None
    first_event_ms: int | None = None
    duration_ms: int = 0
    output_tokens: int = 0


def outcome_of(end: End, backend: str, deadline_ms: int, *, stream: bool, retry_after_ms: int | None = None) -> Outcome:
    """The outcome of an attempt that was settled.

    `backend`: the id to count under, as a chain lists it (BACKEND/* for models that none lists). `deadline_ms`: Envoy's
    for the first event. `retry_after_ms`: where it is known more exactly than the problem tells.
    """
    after = retry_after_ms
    if after is None and end.problem is not None and end.problem.retry_after is not None:
        after = end.problem.retry_after * 1000
    kind = _kind(end, deadline_ms)
    return Outcome(
        backend, end.backend, kind, after if kind in ("rate_limited", "overloaded") else None,
        end.first_event_ms if stream and kind == "ok" else None, end.duration_ms, end.tokens.output or 0)


def _kind(end: End, deadline_ms: int) -> Kind:
    problem = end.problem
    if end.closed:
        return "broken"
    if problem is None:
        return _without_problem(end, deadline_ms)
    if problem.kind in ("rate_limit", "quota"):
        return "rate_limited"
    if problem.kind == "overloaded" or (problem.kind == "upstream" and _BUSY in (end.status, problem.status)):
        return "overloaded"
    if problem.kind == "timeout":
        return "timeout"
    if end.status == 0 or problem.kind in _CLIENTS:  # 0: the request never left for the provider
        return "client"
    return "client" if 400 <= end.status < 500 and end.status not in _PROVIDERS else "failed"


def _without_problem(end: End, deadline_ms: int) -> Kind:
    """It went well, or the exchange was cut: by the deadline, by the client, or by a reset that looks the same."""
    if end.outcome == "exact" or (end.outcome == "estimated" and end.first_event_ms is not None and (
            end.finish_reason or end.first_event_ms == end.duration_ms)):
        return "ok"
    if end.first_event_ms is None and end.duration_ms * _TOLERANCE >= deadline_ms * (_TOLERANCE - 1):
        return "timeout"
    return "client"


def silent(chain: Sequence[str], told: Mapping[int, tuple[str, bool]], *, answered: bool) -> tuple[str, ...]:
    """The backends of a finished request that failed without a word: refused connections, resets before an answer.

    `chain`: ids in the order tried. `told`: of each attempt that began, by its number, the id and whether it ended with
    a word of its own (an outcome that was counted). `answered`: the client's answer came from a backend.

    An attempt that another one followed has failed, whatever it said. Where Envoy passed over a backend that it knows
    to be away, numbers no longer tell places: then nothing is said of attempts that did not begin.
    """
    if not told:
        return () if answered else tuple(chain)
    last = max(told)
    cut = tuple(backend for number, (backend, counted) in sorted(told.items()) if number < last and not counted)
    places = dict(enumerate(chain, 1))
    if any(places.get(number) != backend for number, (backend, _) in told.items()):
        return cut
    return (*(backend for number, backend in places.items() if number < last and number not in told), *cut)
