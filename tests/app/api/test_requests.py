"""From a histogram to a request: exemplars bear the ids that log lines bear."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.trail import Trail
from tests.app.serving import Service, documents, fakes, serving

OPENMETRICS = "application/openmetrics-text; version=1.0.0, text/plain; q=0.5"


def exemplars(answer: httpx.Response, histogram: str, **labels: str) -> set[str]:
    """The request ids on a histogram's buckets."""
    lines = [line for line in answer.text.splitlines() if line.startswith(f"{histogram}_bucket")]
    chosen = [line for line in lines if all(f'{name}="{value}"' in line for name, value in labels.items())]
    return {found[1] for line in chosen if (found := re.search(r' # {request_id="([^"]*)"}', line))}


async def test_histograms_name_a_request_to_whoever_can_read_that(service: Service) -> None:
    await service.ingest(*documents(3))
    await service.client.post("/search", json={"query": "topic"}, headers={"x-request-id": "mine"})
    answer = await service.client.get("/metrics", headers={"accept": OPENMETRICS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert exemplars(answer, "winnow_request_seconds", route="/search") == {"mine"}
    for part in ("queue", "compute"):
        found = exemplars(answer, "winnow_stage_seconds", pipeline="search", stage="rerank", part=part)
        assert found == {"mine"}


async def test_work_in_the_background_is_nobodys(service: Service) -> None:
    """A collection's indexer outlives the request that created it."""
    await service.client.post("/collections", json={"name": "new"}, headers={"x-request-id": "creator"})
    await service.ingest(*documents(3), collection="new")
    answer = await service.client.get("/metrics", headers={"accept": OPENMETRICS})
    assert not exemplars(answer, "winnow_stage_seconds", stage="publish")
    assert exemplars(answer, "winnow_stage_seconds", stage="commit")


async def test_who_asks_for_plain_metrics_gets_them_without_exemplars(service: Service) -> None:
    await service.search("topic")
    answer = await service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "request_id" not in answer.text


@pytest.mark.parametrize("slow", [True, False])
async def test_a_slow_request_tells_where_its_time_went(tmp_path: Path, slow: bool) -> None:
    async with serving(fakes(tmp_path, slow_seconds=1e-6 if slow else 60.0)) as service:
        await service.ingest(*documents(3))
        with capture_logs(processors=[merge_contextvars]) as lines:
            answer = await service.client.post("/search", json={"query": "topic"})
    [line] = [each for each in lines if each.get("route") == "/search"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["event"], line["log_level"]) == (("slow request", "warning") if slow else ("request", "info"))
    assert list(line.get("stages", {})) == (list(answer.json()["timings"]) if slow else [])
    assert "topic" not in str(line)


def test_the_longest_ids_fit_into_an_exemplar() -> None:
    class Traced:
        id = "f" * 32

    ids = Trail("x" * 64, Traced()).ids  # type: ignore[arg-type]  # an id is all that is asked for
    assert sum(len(name) + len(value) for name, value in ids.items()) <= 128
