"""An index that carries too much that is deleted is rebuilt while searches and ingests go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.app.serving import Service, body, documents, fakes, lose, serving, until

AMOUNT = 1600
DELETED = 1100
"""More than COMPACT_AT_LEAST, and more than the share of the settings."""


async def _delete_most(service: Service) -> None:
    await service.ingest(*documents(AMOUNT, "topic{0} of many"))
    answer = await service.client.post("/documents/delete", json={"filter": {"n": {"$lt": DELETED}}})
    assert len(body(answer)["deleted"]) == DELETED


def _weight(service: Service) -> float:
    return service.sample("winnow_index_deleted_chunks", collection="default")


async def test_deleted_chunks_are_compacted_while_searches_and_ingests_go_on(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        view = service.engine.collections.shelf("default").indexes.dense
        before = view.index
        await _delete_most(service)
        compacted = asyncio.create_task(until(lambda: view.index is not before))
        late = 0
        while not compacted.done():
            late += 1
            await service.ingest({"id": f"late{late}", "text": f"newcomer{late} arrives"})
            assert await service.found(f"topic{DELETED + 1}", top_k=1) == [f"d{DELETED + 1}"]
        await compacted
        await until(lambda: _weight(service) == 0)
        assert service.sample("winnow_index_renewals_total", collection="default") == 1
        assert len(view.index) == AMOUNT - DELETED + late
        assert await service.found(f"newcomer{late}", top_k=1) == [f"late{late}"]


async def test_a_compacted_index_is_what_the_next_start_opens(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        view = service.engine.collections.shelf("default").indexes.dense
        before = view.index
        await _delete_most(service)
        await until(lambda: view.index is not before)
        await until(lambda: service.sample("winnow_index_snapshots_total", collection="default", outcome="written") > 0)
    async with serving(fakes(tmp_path)) as service:
        view = service.engine.collections.shelf("default").indexes.dense
        assert (view.index.deleted, len(view.index)) == (0, AMOUNT - DELETED)
        assert await service.found(f"topic{AMOUNT - 1}", top_k=1) == [f"d{AMOUNT - 1}"]


async def test_an_index_built_anew_has_the_effort_that_was_found_for_the_old_one(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5))
        indexes = service.engine.collections.shelf("default").indexes
        before, view = indexes.dense.index, indexes.dense
        view.tune(before.ef + 13)
        indexes.renew(["dense"])
        await until(lambda: view.index is not before)
        assert view.index.ef == before.ef


async def test_a_snapshot_that_is_newer_than_the_database_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the database alone is put back, what comes next bears the numbers of what was lost."""
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5))
    await lose(tmp_path, {"id": "d3", "text": "lost words"}, {"id": "lost", "text": "other lost words"})
    async with serving(fakes(tmp_path)) as service:
        view = service.engine.collections.shelf("default").indexes.dense
        assert len(view.index) == 5
        assert (await service.found("topic 3 of many words", mode="dense"))[0] == "d3"
        await service.ingest({"id": "next", "text": "something else"})
        assert (await service.found("something else", mode="dense"))[0] == "next"
        assert len(view.index) == 6
    told = [line for line in capsys.readouterr().out.splitlines() if "index is rebuilt from the truth" in line]
    assert any("changes that the log does not have" in line for line in told if "lexical" not in line)
