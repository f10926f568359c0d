"""Metrics by the OpenTelemetry GenAI names, in Prometheus form; workers share them through prometheus_client's files.

Source: OpenTelemetry semantic conventions, "Generative AI metrics".
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Histogram

from extproc.core.events import Carried, End
from extproc.core.pricing import NANO

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_CLASSES = ("input", "cache_read", "cache_write", "output", "reasoning")

REQUESTS = Counter("extproc_requests", "Attempts that ended", ["route", "backend", "outcome"])
FAILOVERS = Counter("extproc_failovers", "Attempts after the first of a request", ["backend"])
TOKENS = Counter("gen_ai_client_token_usage", "Tokens by class", ["token_type", "backend", "model"])
COST = Counter("extproc_cost_usd", "Cost in US dollars", ["backend", "model"])
UNPRICED = Counter("extproc_unpriced", "Attempts whose cost is unknown", ["backend", "model"])
DURATION = Histogram("gen_ai_server_request_duration_seconds", "Attempt, first to last byte", ["backend", "model"],
                     buckets=_SECONDS)
FIRST = Histogram("gen_ai_server_time_to_first_token_seconds", "Attempt, until its first event", ["backend", "model"],
                  buckets=_SECONDS)


class _Model:
    """The instruments of one backend and model, looked up once: labels() costs more than counting.

    The model is the one the backend was asked for; a pinned one may be any text of a client, so what is not in a
    chain is counted as "other" to bound the number of series.
    """

    def __init__(self, backend: str, model: str) -> None:
        self.tokens = [TOKENS.labels(kind, backend, model) for kind in _CLASSES]
        self.cost, self.unpriced = COST.labels(backend, model), UNPRICED.labels(backend, model)
        self.duration, self.first = DURATION.labels(backend, model), FIRST.labels(backend, model)


_model = lru_cache(maxsize=1024)(_Model)
_requests = lru_cache(maxsize=1024)(REQUESTS.labels)


def record(carried: Carried, end: End, *, listed: bool) -> None:
    """Count one settled attempt; `listed`: its model stands in a chain of the configuration."""
    mine = _model(end.backend, end.model if listed else "other")
    route = carried.admission.route if listed else f"{end.backend}/other"
    _requests(route, end.backend, end.outcome).inc()
    if end.attempt > 1:
        FAILOVERS.labels(end.backend).inc()
    tokens = end.tokens
    values = (tokens.input, tokens.cache_read, tokens.cache_write, tokens.output, tokens.reasoning)
    for counter, value in zip(mine.tokens, values, strict=True):
        if value:
            counter.inc(value)
    if end.cost is None:
        mine.unpriced.inc()
    elif end.cost:
        mine.cost.inc(end.cost / NANO)
    mine.duration.observe(end.duration_ms / 1000)
    if end.first_event_ms is not None:
        mine.first.observe(end.first_event_ms / 1000)
