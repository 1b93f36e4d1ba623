"""A snapshot that can't be trusted is refused and its index rebuilt: told while it lasts, and in nobody's way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from app.errors import StartupError
from app.service.collections import Collections
from app.stores import lexical_folder, snapshot
from app.stores.data_dir import INDEXES
from app.stores.lexical_files import SEGMENTS
from tests.app.serving import Service, body, documents, fakes, problem, serving, until

FEW, MANY = 40, 2500
FAST, SLOW = {"index_ef_construction": 16, "index_m": 4}, {"index_ef_construction": 1000, "index_m": 64}
"""So that a rebuild takes long enough to be looked at, and what comes before it does not."""


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def of_later_version(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "vectors cut": ("*.hnsw", cut),
    "vectors with a flipped bit": ("*.hnsw", flip),
    "vectors of a later version": (snapshot.MANIFEST, of_later_version),
    "words cut": ("lexical/*.idx", cut),
    "words with a flipped bit": ("lexical/*.term", flip),
    "words of a later version": (f"lexical/{lexical_folder.MANIFEST}", of_later_version),
}


def harm(data: Path, files: str, damage: Callable[[Path], None]) -> None:
    """The last collection's."""
    folder = max((data / "indexes").iterdir())
    (at,) = folder.glob(files)
    damage(at)


def leave(data: Path) -> None:
    """A snapshot by half, and the indexes of a collection that was dropped."""
    (data / "indexes" / "1" / "index.partial").write_bytes(b"half an index")
    (data / "indexes" / "99" / "lexical").mkdir(parents=True)


def indexed(data: Path) -> list[Path]:
    return sorted(data.glob("indexes/**/*"))


def leavings(data: Path) -> list[Path]:
    return [*data.glob("indexes/99"), *data.rglob("*.partial")]


def share(service: Service, index: str) -> float:
    return service.sample("winnow_index_rebuild_share", collection="papers", index=index)


async def test_every_damage_costs_a_rebuild_and_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(FEW))
        await service.client.delete("/documents/d7")
    for files, damage in DAMAGES.values():
        harm(tmp_path, files, damage)
        capsys.readouterr()
        async with serving(fakes(tmp_path)) as service:
            for mode in ("dense", "lexical"):
                assert (await service.found("topic 8", top_k=1, mode=mode, rerank=False)) == ["d8"]
            held = body(await service.client.get("/collections/default"))
            assert held["index_chunks"] == held["lexical_chunks"] == held["chunks"] == FEW - 1
        assert capsys.readouterr().out.count("index is rebuilt from the truth") == 1


async def test_what_a_killed_process_left_behind_is_swept_away_at_the_next_start(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(FEW))
    leave(tmp_path)
    async with serving(fakes(tmp_path)) as service:
        assert await service.found("topic 8", top_k=1) == ["d8"]
    assert leavings(tmp_path) == []


async def test_a_collection_can_not_be_dropped_while_a_start_still_sweeps_and_before_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.client.post("/collections", json={"name": "papers"})
    swept, sweep = Event(), Collections._sweep

    def sweep_at_last(collections: Collections, folders: set[Path]) -> None:
        swept.wait()
        sweep(collections, folders)

    monkeypatch.setattr(Collections, "_sweep", sweep_at_last)
    async with serving(fakes(tmp_path), ready=False) as service:
        try:
            await until(lambda: service.engine.collections.has("papers"))
            problem(await service.client.delete("/collections/papers"), 503, "unavailable")
        finally:
            swept.set()
        await service.ready()
        assert (await service.client.delete("/collections/papers")).status_code == 204
        problem(await service.client.post("/search", json={"query": "topic", "collection": "papers"}), 404, "not-found")


async def test_a_collection_that_is_made_while_a_start_still_sweeps_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, made, sweep = Event(), Event(), Collections._sweep

    def sweep_at_last(collections: Collections, *given: Any) -> None:
        begun.set()
        made.wait()
        sweep(collections, *given)

    monkeypatch.setattr(Collections, "_sweep", sweep_at_last)
    async with serving(fakes(tmp_path), ready=False) as service:
        try:
            await until(begun.is_set)
            assert (await service.client.post("/collections", json={"name": "papers"})).status_code == 201
        finally:
            made.set()
        await service.ready()
        await service.ingest(*documents(3), collection="papers")
        number = service.engine.collections.shelf("papers").collection.number
        assert (tmp_path / INDEXES / str(number) / "lexical" / SEGMENTS).exists()


async def test_readiness_counts_the_chunks_of_a_rebuild_while_other_collections_are_searched(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, **FAST)) as service:
        await service.ingest(*documents(FEW))
        await service.client.post("/collections", json={"name": "papers"})
        await service.ingest(*documents(MANY), collection="papers")
    harm(tmp_path, "*.hnsw", flip)
    told, shares, searched = [], [], 0
    async with serving(fakes(tmp_path, **SLOW), ready=False) as service:
        while not (ready := body(await service.client.get("/readyz")))["ready"]:
            told += [reason for reason in ready["reasons"] if "being rebuilt" in reason]
            shares.append(share(service, "vector"))
            if told and not any("default" in reason for reason in ready["reasons"]):
                assert await service.found("topic 8", top_k=1) == ["d8"]
                searched += 1
        assert searched
        assert f"collection 'papers': vector index is being rebuilt, 1,024 of {MANY:,} chunks" in told
        assert any(0 < part < 1 for part in shares)
        assert share(service, "vector") == share(service, "lexical") == 1
        assert await service.found("topic 8", top_k=1, collection="papers") == ["d8"]
        await until(lambda: service.sample("winnow_ready") == 1)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["missing", "empty"])
async def test_indexes_whose_database_got_lost_are_told_of_and_left_as_they_are(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(3))
    harm(tmp_path / "winnow.db")
    before = indexed(tmp_path)
    with pytest.raises(StartupError, match=r"winnow.db is missing or empty.*restore a backup"):
        async with serving(fakes(tmp_path), ready=False):
            pass
    assert indexed(tmp_path) == before


async def test_a_folder_of_indexes_that_can_not_be_used_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(3))
    shutil.rmtree(tmp_path / "indexes" / "1")
    (tmp_path / "indexes" / "1").write_text("not a folder")
    async with serving(fakes(tmp_path), ready=False) as service:
        await until(lambda: "may write to all of" in "".join(service.engine.readiness.reasons()))
        assert "builds them anew" in problem(await service.client.get("/documents/d1"), 503, "unavailable")["detail"]
    assert "Traceback" not in capsys.readouterr().err
