"""Traces of OpenTelemetry, sent by OTLP. Imported only where WINNOW_TRACES asks for them.

OpenTelemetry's own variables say where to (OTEL_EXPORTER_OTLP_ENDPOINT), how many, and under which name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Thread
from time import time_ns

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace import Tracer as SpanMaker
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.trail import Facts, Trace

LAST_SECONDS = 1.0
"""For the last spans to be sent when the service stops; a collector that does not answer is not waited for longer."""


class OtlpTracer:
    """Hands spans to a queue that a thread empties; a full one drops them, so that no request waits for a collector."""

    def __init__(self, version: str) -> None:
        named = Resource({"service.name": "winnow", "service.version": version})
        self._provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._spans = self._provider.get_tracer("winnow", version)

    def begin(self, headers: Mapping[str, str]) -> OtlpTrace | None:
        above = TraceContextTextMapPropagator().extract(headers)
        span = self._spans.start_span("request", above, SpanKind.SERVER)
        return OtlpTrace(self._spans, span) if span.is_recording() else None

    def close(self) -> None:
        ending = Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)
        if ending.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it has no annotation


class OtlpTrace:
    """A request's span. Batches are told of by a model's thread, all else by the request's own."""

    def __init__(self, spans: SpanMaker, span: Span) -> None:
        self._spans = spans
        self._span = span
        self._batches: list[SpanContext] = []
        """Those that the stage under way has ridden in."""

    @property
    def id(self) -> str:
        return format_trace_id(self._span.get_span_context().trace_id)

    def stage(self, name: str, seconds: float, facts: Facts) -> None:
        links, self._batches = self._batches, []
        self._record(name, seconds, facts, links, self._span)

    def batch(self, riders: Sequence[Trace], name: str, seconds: float, facts: Facts) -> None:
        ours = [rider for rider in riders if isinstance(rider, OtlpTrace)]
        made = self._record(name, seconds, facts, [rider._span.get_span_context() for rider in ours])
        for rider in ours:
            rider._batches.append(made)

    def end(self, name: str, facts: Facts, *, failed: bool) -> None:
        self._span.update_name(name)
        self._span.set_attributes(dict(facts))
        if failed:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _record(
        self, name: str, seconds: float, facts: Facts, linked: Sequence[SpanContext], above: Span | None = None
    ) -> SpanContext:
        """A span that is over just now."""
        ended = time_ns()
        span = self._spans.start_span(
            name,
            set_span_in_context(above) if above else None,
            attributes=dict(facts),
            links=[Link(context) for context in linked],
            start_time=ended - round(seconds * 1e9),
        )
        span.end(ended)
        return span.get_span_context()
