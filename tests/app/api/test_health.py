from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.stages.embed import Embedder
from app.telemetry import Metrics
from tests.app.serving import Service, body, documents, fakes, held_up, nothing_opened, serving, until

STAGES = {
    "search": {"embed", "filter", "retrieve", "fuse", "load", "rerank"},
    "ingest": {"chunk", "commit", "embed", "index", "publish"},
}


async def test_while_collections_are_opened_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(10))
    with ExitStack() as held:
        held.enter_context(nothing_opened())
        held.enter_context(held_up(Embedder, "query"))
        async with serving(fakes(tmp_path), ready=False) as service:
            ready = await service.client.get("/readyz")
            assert ready.status_code == 503
            assert not body(ready)["ready"]
            assert any("opened" in reason for reason in body(ready)["reasons"])
            assert any("known question" in reason for reason in body(ready)["reasons"])
            assert body(await service.client.get("/healthz")) == {"status": "alive"}
            assert service.sample("winnow_ready") == 0
            held.close()
            await service.ready()
            ready = await service.client.get("/readyz")
            assert ready.status_code == 200
            assert body(ready)["ready"]
            assert body(ready)["reasons"] == []
            assert service.sample("winnow_ready") == 1


async def test_probes_may_ask_for_the_head_alone(service: Service) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        head, whole = await service.client.head(path), await service.client.get(path)
        assert (head.status_code, head.headers["content-type"]) == (200, whole.headers["content-type"])


async def test_every_metric_is_there_and_every_stage_of_both_pipelines_is_timed(service: Service) -> None:
    await service.ingest(*documents(3))
    await service.search("topic", filter={"n": 1})
    answer = await service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {name for name in families if not name.endswith("_created")} == {
        metric.name for metric in Metrics().registry.collect()
    }
    timed = {
        (sample.labels["pipeline"], sample.labels["stage"], sample.labels["part"])
        for sample in families["winnow_stage_seconds"].samples
        if sample.name.endswith("_count") and sample.value >= 1
    }
    for pipeline, stages in STAGES.items():
        assert {stage for one, stage, part in timed if one == pipeline and part == "compute"} == stages
    queued = {(pipeline, stage) for pipeline, stage, part in timed if part == "queue"}
    assert queued == {("search", "embed"), ("search", "rerank"), ("ingest", "embed")}
    assert families["winnow_ready"].samples[0].value == 1
    told = families["winnow_info"].samples[0].labels
    assert (told["encoder"], told["runtime"], told["precision"]) == ("fake:64", "fake", "float32")


async def test_the_gauges_of_an_index_follow_what_it_holds(service: Service) -> None:
    await service.ingest(*documents(7))
    sample = service.sample
    await until(lambda: sample("winnow_index_chunks", collection="default") == 7)
    assert sample("winnow_index_lag_documents", collection="default") == 0
    assert sample("winnow_index_bytes", collection="default") > 7 * 64 * 4
    assert sample("winnow_ingested_documents_total", status="created") == 7
    await service.client.delete("/documents/d0")
    await until(lambda: sample("winnow_index_chunks", collection="default") == 6)


async def test_requests_are_measured_by_route_and_not_by_path(service: Service) -> None:
    for i in range(3):
        await service.client.get(f"/documents/none{i}")
    assert service.sample("winnow_request_seconds_count", route="/documents/{document:path}", status="404") == 3


async def test_a_sane_request_id_is_the_callers_own(service: Service) -> None:
    answer = await service.client.get("/healthz", headers={"x-request-id": "trace-42.a_B"})
    assert answer.headers["x-request-id"] == "trace-42.a_B"


@pytest.mark.parametrize("silly", ["", "a b", "x" * 65, "a\tb", "<script>", 'a"b', "größer"])
async def test_a_silly_request_id_is_replaced(service: Service, silly: str) -> None:
    answer = await service.client.get("/healthz", headers=[(b"x-request-id", silly.encode())])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_problems_bear_the_request_id_too(service: Service) -> None:
    answer = await service.client.get("/nowhere", headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == body(answer)["request_id"] == "mine"


async def test_the_documentation_of_the_api_can_be_read(service: Service) -> None:
    described = body(await service.client.get("/openapi.json"))
    assert set(described["paths"]) >= {"/search", "/ingest", "/collections", "/documents/{document}", "/jobs/{job}"}
    ingest = described["paths"]["/ingest"]["post"]["requestBody"]["content"]
    assert set(ingest) == {"application/json", "application/x-ndjson"}
    assert (await service.client.get("/docs")).status_code == 200
