"""A collector of traces, as OpenTelemetry's: it listens on a socket and keeps the spans that it is sent."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic, sleep
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A span as it came over the wire."""

    name: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    facts: dict[str, Any]
    links: list[tuple[str, str]]
    """Traces and spans."""
    failed: bool
    service: str


@dataclass(slots=True)
class Collector:
    """What has arrived so far."""

    address: str
    spans: list[Recorded] = field(default_factory=list)
    bodies: bytes = b""

    def named(self, name: str, amount: int = 1) -> list[Recorded]:
        """The spans of this name, once there are so many."""
        deadline = monotonic() + PATIENCE
        while len(found := [span for span in self.spans if span.name == name]) < amount:
            assert monotonic() < deadline, f"no {amount} spans {name} among {[span.name for span in self.spans]}"
            sleep(0.02)
        return found

    def below(self, parent: Recorded) -> dict[str, Recorded]:
        return {span.name: span for span in self.spans if span.parent == parent.id}

    def take(self, body: bytes) -> None:
        self.bodies += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            self.spans += [_recorded(span, service) for scope in resource.scope_spans for span in scope.spans]


def _recorded(span: Any, service: str) -> Recorded:
    facts = {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}
    links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
    began, ended = span.start_time_unix_nano, span.end_time_unix_nano
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    return Recorded(span.name, *ids, began, ended, facts, links, span.status.code == 2, service)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join(PATIENCE)
