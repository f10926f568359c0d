"""Spans over OTLP: `extproc request` per decision, `chat <model>` per attempt, hung under Envoy's own spans.

Attribute names: OpenTelemetry semantic conventions, "Generative AI spans" (gen_ai.*). Prompts are never recorded.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from extproc.core.events import Admission, Carried, End

_MS = 1_000_000
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Exports spans to an OTLP/HTTP endpoint; without one it does nothing."""

    def __init__(self, endpoint: str | None, service: str) -> None:
        self._provider: TracerProvider | None = None
        if endpoint:
            self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
            exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
            self._tracer = self._provider.get_tracer("extproc")

    def request(self, rid: str, admission: Admission, parent: str, start_ms: int, end_ms: int) -> None:
        """One decision: what was asked, where it goes, why."""
        if self._provider is None:
            return
        span = self._tracer.start_span("extproc request", self._context(parent), SpanKind.INTERNAL, {
            "extproc.request_id": rid, "extproc.route": admission.route, "extproc.reason": admission.reason,
            "extproc.team": admission.team, "gen_ai.request.model": admission.model,
            "gen_ai.operation.name": "chat",
        }, start_time=start_ms * _MS)
        span.end(end_ms * _MS)

    def attempt(self, carried: Carried, end: End, parent: str, end_ms: int) -> None:
        """One attempt at one backend."""
        if self._provider is None:
            return
        tokens = end.tokens
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": end.backend, "gen_ai.request.model": end.model,
            "extproc.request_id": carried.rid, "extproc.attempt": end.attempt, "extproc.outcome": end.outcome,
            "http.response.status_code": end.status,
        }
        optional = {
            "gen_ai.response.model": end.reported_model or None, "gen_ai.usage.input_tokens": tokens.total_input,
            "gen_ai.usage.output_tokens": tokens.total_output, "extproc.cost_nano_usd": end.cost,
            "gen_ai.response.time_to_first_event_ms": end.first_event_ms,
        }
        attributes |= {k: v for k, v in optional.items() if v is not None}
        span = self._tracer.start_span(f"chat {end.model}", self._context(parent), SpanKind.CLIENT, attributes,
                                       start_time=(end_ms - end.duration_ms) * _MS)
        if end.problem is not None:
            span.set_attribute("error.type", end.problem.kind)
            span.set_status(Status(StatusCode.ERROR, end.problem.kind))
        span.end(end_ms * _MS)

    @staticmethod
    def _context(parent: str) -> Context:
        return _propagator.extract({"traceparent": parent}) if parent else Context()

    def shutdown(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()
