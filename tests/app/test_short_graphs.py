"""Graphs that compare a part of each vector: the same answers and checks, and a rebuild where the part changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from tests.app.serving import Json, Service, body, documents, fakes, serving, until

WHOLE, SHORT = 64, 24


def short(data: Path, **more: object) -> Settings:
    return fakes(data, index_dimensions=SHORT, exact_below=0, **more)


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


async def test_hits_are_in_the_order_and_have_the_scores_of_exact_search(tmp_path: Path) -> None:
    async with serving(short(tmp_path)) as service:
        await service.ingest(*documents(60))
        held = body(await service.client.get("/collections/default"))
        assert (held["dimensions"], held["index_dimensions"]) == (WHOLE, SHORT)
        assert await answers(service) == await answers(service, exact=True)


async def test_a_restart_takes_the_snapshot_and_what_has_come_and_gone_since(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(short(tmp_path)) as service:
        await service.ingest(*documents(60))
        await service.client.delete("/documents/d7")
        before = await answers(service)
    async with serving(short(tmp_path)) as service:
        assert await answers(service) == before
        await service.ingest({"id": "d8", "text": "nothing of the kind"}, {"id": "new", "text": "brand new"})
        assert await service.found("brand new", top_k=1, mode="dense", rerank=False) == ["new"]
        assert await check(service) == []
    assert "rebuilt" not in capsys.readouterr().out


@pytest.mark.parametrize("settings", [fakes, lambda data: fakes(data, index_dimensions=WHOLE // 2)])
async def test_another_part_of_the_vectors_builds_the_graph_anew(
    tmp_path: Path, settings: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(settings)
    async with serving(short(tmp_path)) as service:
        await service.ingest(*documents(60))
        before = await answers(service, exact=True)
    async with serving(settings(tmp_path)) as service:
        assert await answers(service) == before
    assert f"it holds vectors of {SHORT} dimensions" in capsys.readouterr().out


async def test_more_than_the_vectors_have_is_all_of_them(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, index_dimensions=10 * WHOLE)) as service:
        assert body(await service.client.get("/collections/default"))["index_dimensions"] == WHOLE


@pytest.mark.parametrize("vector", [np.eye(1, WHOLE, dtype=np.float32)[0].tobytes(), b"no vector"])
async def test_a_check_finds_a_vector_that_the_graph_has_otherwise(tmp_path: Path, vector: bytes) -> None:
    async with serving(short(tmp_path)) as service:
        await service.ingest(*documents(30))
        await service.engine.collections._database.write(
            lambda db: db.execute("UPDATE vectors SET vector = ? WHERE chunk = 9", (vector,))
        )
        told = {each["problem"]: each["chunks"] for each in await check(service) if each["part"] == "vectors"}
        assert told == {"the index of vectors holds chunks with other vectors than the database's: 1": ["9"]}
