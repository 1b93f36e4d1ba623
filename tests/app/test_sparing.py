"""Indexes that keep less than whole vectors: the same answers and checks, and a rebuild where the part changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from tests.app.serving import Json, Service, body, documents, fakes, serving, until

WHOLE, SHORT = 64, 24
WAYS: dict[str, Json] = {
    "short": {"index_dimensions": SHORT},
    "rounded": {"index_precision": "int8"},
    "short and rounded": {"index_dimensions": SHORT, "index_precision": "int8"},
}

Spare = Callable[[], Settings]


@pytest.fixture(params=WAYS)
def spare(request: pytest.FixtureRequest, tmp_path: Path) -> Spare:
    """Settings of a service that keeps less, all of it in one folder."""
    return lambda: fakes(tmp_path, exact_below=0, **WAYS[request.param])


async def answers(service: Service, *, exact: bool = False) -> list[list[tuple[str, object]]]:
    asked = [
        (await service.search(f"topic {n}", top_k=3, mode="dense", rerank=False, exact=exact))["hits"]
        for n in (3, 8, 20)
    ]
    return [[(hit["document_id"], pytest.approx(hit["score"], abs=1e-5)) for hit in hits] for hits in asked]


async def check(service: Service) -> list[Json]:
    await service.client.post("/check", json={})
    report = service.engine.checks.report
    await until(lambda: report.state != "running", seconds=60)
    found: list[Json] = body(await service.client.get("/check"))["findings"]
    return found


async def test_hits_have_the_order_and_the_scores_of_whole_vectors(spare: Spare, tmp_path: Path) -> None:
    async with serving(fakes(tmp_path / "whole")) as service:
        await service.ingest(*documents(60))
        expected = await answers(service, exact=True)
    async with serving(spare()) as service:
        await service.ingest(*documents(60))
        assert await answers(service) == expected
        assert await answers(service, exact=True) == expected


async def test_a_restart_takes_the_snapshot_and_what_has_come_and_gone_since(
    spare: Spare, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(spare()) as service:
        await service.ingest(*documents(60))
        await service.client.delete("/documents/d7")
        before = await answers(service)
    async with serving(spare()) as service:
        assert await answers(service) == before
        await service.ingest({"id": "d8", "text": "nothing of the kind"}, {"id": "new", "text": "brand new"})
        assert await service.found("brand new", top_k=1, mode="dense", rerank=False) == ["new"]
        assert await check(service) == []
    assert "rebuilt" not in capsys.readouterr().out


@pytest.mark.parametrize("dimensions", [None, WHOLE // 2])
async def test_another_part_of_the_vectors_builds_the_graph_anew(
    tmp_path: Path, dimensions: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(fakes(tmp_path, index_dimensions=SHORT)) as service:
        await service.ingest(*documents(60))
        before = await answers(service, exact=True)
    async with serving(fakes(tmp_path, index_dimensions=dimensions)) as service:
        assert await answers(service) == before
    assert f"it holds vectors of {SHORT} dimensions" in capsys.readouterr().out


async def test_another_precision_builds_nothing_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(60))
        before, taken = await answers(service), service.engine.collections.shelf("default").indexes.dense.index.nbytes
    async with serving(fakes(tmp_path, index_precision="int8")) as service:
        assert await answers(service) == before
        assert service.engine.collections.shelf("default").indexes.dense.index.nbytes == taken - 60 * (3 * WHOLE - 4)
    assert "rebuilt" not in capsys.readouterr().out


async def test_a_collection_says_how_much_of_its_vectors_the_graph_compares(tmp_path: Path) -> None:
    for asked, told in ((SHORT, SHORT), (10 * WHOLE, WHOLE), (None, WHOLE)):
        async with serving(fakes(tmp_path, index_dimensions=asked)) as service:
            held = body(await service.client.get("/collections/default"))
            assert (held["dimensions"], held["index_dimensions"]) == (WHOLE, told)


@pytest.mark.parametrize("vector", [np.eye(1, WHOLE, dtype=np.float32)[0].tobytes(), b"no vector"])
async def test_a_check_finds_a_vector_that_the_index_has_otherwise(spare: Spare, vector: bytes) -> None:
    async with serving(spare()) as service:
        await service.ingest(*documents(30))
        await service.engine.collections._database.write(
            lambda db: db.execute("UPDATE vectors SET vector = ? WHERE chunk = 9", (vector,))
        )
        told = {each["problem"]: each["chunks"] for each in await check(service) if each["part"] == "vectors"}
        assert told == {"the index of vectors holds chunks with other vectors than the database's: 1": ["9"]}
