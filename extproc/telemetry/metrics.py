"""Metrics by the OpenTelemetry GenAI names, in Prometheus form; workers share them through prometheus_client's files.

Source: OpenTelemetry semantic conventions, "Generative AI metrics".
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from extproc.core.events import Carried, End
from extproc.core.pricing import NANO

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

REQUESTS = Counter("extproc_requests", "Attempts that ended", ["route", "backend", "outcome"])
FAILOVERS = Counter("extproc_failovers", "Attempts after the first of a request", ["backend"])
TOKENS = Counter("gen_ai_client_token_usage", "Tokens by class", ["token_type", "backend", "model"])
COST = Counter("extproc_cost_usd", "Cost in US dollars", ["backend", "model"])
UNPRICED = Counter("extproc_unpriced", "Attempts whose cost is unknown", ["backend", "model"])
DURATION = Histogram("gen_ai_server_request_duration_seconds", "Attempt, first to last byte", ["backend", "model"],
                     buckets=_SECONDS)
FIRST = Histogram("gen_ai_server_time_to_first_token_seconds", "Attempt, until its first event", ["backend", "model"],
                  buckets=_SECONDS)


def record(carried: Carried, end: End) -> None:
    """Count one settled attempt."""
    labels = (end.backend, end.model)
    REQUESTS.labels(carried.admission.route, end.backend, end.outcome).inc()
    if end.attempt > 1:
        FAILOVERS.labels(end.backend).inc()
    tokens = end.tokens
    for name, value in (("input", tokens.input), ("cache_read", tokens.cache_read), ("cache_write", tokens.cache_write),
                        ("output", tokens.output), ("reasoning", tokens.reasoning)):
        if value:
            TOKENS.labels(name, *labels).inc(value)
    if end.cost is None:
        UNPRICED.labels(*labels).inc()
    elif end.cost:
        COST.labels(*labels).inc(end.cost / NANO)
    DURATION.labels(*labels).observe(end.duration_ms / 1000)
    if end.first_event_ms is not None:
        FIRST.labels(*labels).observe(end.first_event_ms / 1000)
