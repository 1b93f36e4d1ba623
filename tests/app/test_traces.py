"""Traces go to a real collector over HTTP, and whatever becomes of it, requests are answered."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.settings import Settings
from app.sharer import Memory, Sharer
from app.telemetry import Metrics, Stopwatch
from app.traces import LAST_SECONDS, OtlpTracer
from app.trail import Trail, leaving
from tests.app.batching import Model, open_device, serve, text
from tests.app.collector import Collector, collecting
from tests.app.serving import documents, fakes, serving

ABOVE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
SECRET = "zanzibar"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        _send_to(collector.address, monkeypatch)
        yield collector


def _send_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


def traced(folder: Path) -> Settings:
    return fakes(folder, traces=True)


async def test_a_request_has_a_span_with_a_child_for_each_stage(tmp_path: Path, collector: Collector) -> None:
    async with serving(traced(tmp_path)) as service:
        await service.ingest(*documents(5))
        answer = await service.client.post("/search", json={"query": "topic"})
        timings = answer.json()["timings"]
    [span] = collector.named("POST /search")
    children = collector.below(span)
    assert list(timings) == list(children)
    assert span.service == "winnow"
    assert not span.parent
    assert span.facts["http.response.status_code"] == 200
    assert span.facts["winnow.request_id"] == answer.headers["x-request-id"]
    for stage, child in children.items():
        assert span.began <= child.ended <= span.ended
        assert child.trace == span.trace
        seconds = (timings[stage]["queue"] + timings[stage]["compute"]) / 1000
        assert (child.ended - child.began) / 1e9 == pytest.approx(seconds, abs=1e-5)
        assert child.facts["winnow.queue_seconds"] == pytest.approx(timings[stage]["queue"] / 1000, abs=1e-5)


async def test_a_traces_id_is_in_the_log_and_on_the_histograms(tmp_path: Path, collector: Collector) -> None:
    async with serving(traced(tmp_path)) as service:
        with capture_logs(processors=[merge_contextvars]) as lines:
            await service.search("topic")
        measured = await service.client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    [span] = collector.named("POST /search")
    [line] = [each for each in lines if each.get("route") == "/search"]
    assert line["trace_id"] == span.trace
    for histogram in ("winnow_request_seconds", "winnow_stage_seconds"):
        assert re.search(rf'^{histogram}_bucket.* # {{.*trace_id="{span.trace}"', measured.text, re.M)


async def test_no_text_of_a_caller_leaves_with_a_span(tmp_path: Path, collector: Collector) -> None:
    async with serving(traced(tmp_path)) as service:
        await service.ingest({"id": SECRET, "text": f"about {SECRET}", "title": SECRET})
        await service.search(SECRET, filter={SECRET: SECRET})
        assert (await service.client.get(f"/documents/{SECRET}?collection={SECRET}")).status_code == 404
    assert collector.named("GET /documents/{document:path}")
    assert SECRET.encode() not in collector.bodies


async def test_a_trace_that_a_caller_began_goes_on_here(tmp_path: Path, collector: Collector) -> None:
    async with serving(traced(tmp_path)) as service:
        await service.client.get("/collections", headers={"traceparent": f"{ABOVE}-01"})
        await service.client.get("/collections", headers={"traceparent": f"{ABOVE}-00"})
        await service.client.get("/collections", headers={"traceparent": "nonsense"})
        await service.client.get("/healthz", headers={"traceparent": f"{ABOVE}-01"})
    ours, other = collector.named("GET /collections", 2)
    assert f"00-{ours.trace}-{ours.parent}" == ABOVE
    assert other.trace != ours.trace
    assert len(collector.spans) == 2, "one was not sampled by its caller, one is a probe"


async def test_an_answer_that_is_our_failure_is_a_span_that_failed(tmp_path: Path, collector: Collector) -> None:
    async with serving(fakes(tmp_path, traces=True, search_timeout=1e-6)) as service:
        for query in ("", "topic"):
            await service.client.post("/search", json={"query": query})
    failed = {span.facts["http.response.status_code"]: span.failed for span in collector.named("POST /search", 2)}
    assert failed == {422: False, 503: True}


@pytest.mark.parametrize("marks", [(1, 2, 3), (1, 1, 1)], ids=["beside each other", "of the same text"])
async def test_a_batch_is_linked_to_all_requests_that_share_it_and_they_to_it(
    collector: Collector, marks: Sequence[int]
) -> None:
    tracer, metrics, model = OtlpTracer("0"), Metrics(), Model()
    trails = [Trail(str(number), tracer.begin({})) for number in range(3)]
    with open_device() as device:
        sharer = Sharer(serve(model, device, metrics), Memory(0), metrics)
        busy = await model.hold(sharer.batcher)
        searches = [asyncio.create_task(_search(sharer, metrics, *each)) for each in zip(trails, marks, strict=True)]
        await asyncio.sleep(0.05)
        model.gate.set()
        await asyncio.gather(busy, *searches)
    await asyncio.to_thread(tracer.close)
    [batch] = collector.named("batch model")
    spans = collector.named("request", 3)
    assert sorted(batch.links) == sorted((span.trace, span.id) for span in spans)
    assert batch.facts["winnow.texts"] == len(set(marks))
    for span in spans:
        assert collector.below(span)["rerank"].links == [(batch.trace, batch.id)]


async def _search(sharer: Sharer, metrics: Metrics, trail: Trail, mark: int) -> None:
    """As much of one as leaves a trail."""
    assert trail.trace
    with leaving(trail), Stopwatch(metrics, "search").stage("rerank"):
        await sharer.run([text(9, mark)])
    trail.trace.end("request", {}, failed=False)


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never answers"])
async def test_a_dead_collector_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: bool) -> None:
    """More spans come than its queue holds, and the service still stops in time."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        if listens:
            dead.listen()
        _send_to(f"http://127.0.0.1:{dead.getsockname()[1]}", monkeypatch)
        async with serving(traced(tmp_path)) as service:
            await service.ingest(*documents(3))
            for _ in range(10):
                assert await service.found("topic")
            began = monotonic()
        assert monotonic() - began < LAST_SECONDS + 20, "it waited ten seconds for each of four exports"


def test_nothing_of_it_is_imported_unless_it_is_asked_for() -> None:
    look = (
        "import sys, app.main; app.main.create_app(app.main.Settings()); assert 'opentelemetry.sdk' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", look], check=True)
