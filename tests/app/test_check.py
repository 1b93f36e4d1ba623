"""Every index is held against the truth: what is damaged on purpose is found, named and built anew."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import apsw
import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.service.check import Checks
from app.service.indexes import Indexes
from app.service.shelf import Shelf
from app.stores import snapshot
from app.stores.hnsw import HnswIndex
from app.types import Change, Expansion, Wording
from models.types import SparseVector
from tests.app.serving import (
    PATIENCE,
    Json,
    Service,
    body,
    documents,
    fakes,
    held_up,
    listening,
    problem,
    serving,
    until,
)
from tests.app.traffic import Traffic


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await service.ingest(*documents(30))
        yield service


def shelf_of(service: Service) -> Shelf:
    return service.engine.collections.shelf("default")


async def check(service: Service, *, repair: bool = False) -> Json:
    answer = await service.client.post("/check", json={"repair": repair})
    assert answer.status_code == 202, answer.text
    report = service.engine.checks.report
    await until(lambda: report.state != "running", seconds=60)
    found = body(await service.client.get("/check"))
    assert found["state"] == "done", found
    return found


def problems(found: Json) -> list[str]:
    return [each["problem"] for each in found["findings"]]


async def test_a_sound_service_has_nothing_wrong(held: Service) -> None:
    problem(await held.client.get("/check"), 404, "not-found")
    found = await check(held)
    assert found["findings"] == []
    assert found["collections"] == 1
    assert found["chunks"] == 4 * 30  # vectors twice: as they are compared with, and as the graph has them


async def test_chunks_that_indexes_lack_are_found_and_put_back(held: Service) -> None:
    indexes = shelf_of(held).indexes
    assert indexes.sparse
    sequence = indexes.dense.index.sequence
    indexes.dense.index.apply([Change(sequence, 3, None), Change(sequence, 4, None)])
    indexes.lexical.index.apply([Wording(sequence, 5, None)])
    indexes.sparse.index.apply([Expansion(sequence, 6, None)])
    found = await check(held)
    assert [(each["part"], each["chunks"]) for each in found["findings"]] == [
        ("vectors", ["3", "4"]),
        ("words", ["5"]),
        ("terms", ["6"]),
    ]
    assert problems(found)[0] == "the index of vectors lacks searchable chunks: 2"

    repaired = await check(held, repair=True)
    assert problems(repaired) == problems(found)
    assert all(each["repaired"] for each in repaired["findings"])
    assert (await check(held))["findings"] == []
    for mode in ("dense", "lexical", "sparse"):
        assert len(await held.found("topic of many words", mode=mode, top_k=30)) == 30
    await held.ingest({"id": "later", "text": "a later topic"})
    assert (await check(held))["findings"] == []


async def test_chunks_that_indexes_have_too_many_of_or_wrong_are_found_and_built_anew(held: Service) -> None:
    indexes = shelf_of(held).indexes
    assert indexes.sparse
    sequence, other = indexes.dense.index.sequence, np.eye(1, 64, dtype=np.float32)[0]
    indexes.dense.index.apply([Change(sequence, 777, other)])
    indexes.lexical.index.apply([Wording(sequence, 7, None)])
    indexes.lexical.index.apply([Wording(sequence, 7, "something else"), Wording(sequence, 778, "a stray")])
    indexes.sparse.index.apply([Expansion(sequence, 8, None)])
    wrong = SparseVector(np.array([1], np.int32), np.array([2], np.float32))
    indexes.sparse.index.apply([Expansion(sequence, 8, wrong)])
    await held.engine.collections._database.write(
        lambda db: db.execute("UPDATE vectors SET vector = ? WHERE chunk = 9", (other.tobytes(),))
    )
    found = await check(held)
    assert problems(found) == [
        "the index of vectors holds chunks that can't be found any more: 1",
        "the index of vectors holds chunks with other vectors than the database's: 1",
        "the index of words holds chunks that can't be found any more: 1",
        "the index of words holds chunks with other words than the database's: 1",
        "the index of terms holds chunks with other terms than the database's: 1",
    ]
    assert [each["chunks"] for each in found["findings"]] == [["777"], ["9"], ["778"], ["7"], ["8"]]
    await check(held, repair=True)
    assert (await check(held))["findings"] == []


async def test_searches_and_writes_go_on_while_indexes_are_built_anew(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await service.ingest(*documents(400))
        index = shelf_of(service).indexes.dense.index
        index.apply([Change(index.sequence, 3, None)])
        shelf_of(service).indexes.renew(["dense", "lexical", "sparse"])
        repairing = asyncio.create_task(check(service, repair=True))
        count = 0
        while not repairing.done():
            count += 1
            await service.ingest({"id": f"new{count}", "text": f"fresh{count} words"})
            assert await service.found(f"fresh{count}", mode="lexical", top_k=1) == [f"new{count}"]
        assert all(each["repaired"] for each in (await repairing)["findings"])
        assert (await check(service))["findings"] == []


def test_traffic_is_not_taken_for_damage(tmp_path: Path) -> None:
    with listening(fakes(tmp_path, sparse="fake", snapshot_changes=40, snapshot_seconds=0.1)) as client:
        traffic = Traffic(client)
        traffic.start()
        try:
            for _ in range(3):
                told = winnow("check", "--url", client.base_url)
                assert "all is well" in told
                assert traffic.is_alive()
        finally:
            traffic.done.set()
            traffic.join()


def winnow(*arguments: object, code: int = 0) -> str:
    environment = {"WINNOW_ENCODER": "fake", "WINNOW_RERANKER": "fake", "COLUMNS": "200"}
    ran = CliRunner(env=environment).invoke(app, [*map(str, arguments)])
    assert ran.exit_code == code, ran.output
    return ran.output


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a service that has stopped."""
    folder = tmp_path_factory.mktemp("saved")
    with listening(fakes(folder, sparse="fake")) as client:
        assert client.post("/ingest", json={"documents": documents(40)}).status_code == 200
    return folder


@pytest.fixture
def data(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "data")
    return tmp_path / "data"


@contextmanager
def truth(data: Path) -> Iterator[apsw.Connection]:
    db = apsw.Connection(str(data / "winnow.db"))
    try:
        yield db
    finally:
        db.close()


def test_a_folder_is_checked_without_opening_the_service(data: Path, tmp_path: Path) -> None:
    told = winnow("check", "--data-dir", data)
    assert "80 chunks compared with their indexes: all is well." in told
    assert "There is no data" in winnow("check", "--data-dir", tmp_path / "nowhere", code=2)
    with listening(fakes(data, sparse="fake")):
        assert "Another Winnow works in" in winnow("check", "--data-dir", data, code=2)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def damage(folder: Path) -> tuple[Path, Path]:
    """A flipped bit in the graph, and a segment that ends too early."""
    (graph,), (words, *_) = folder.glob("indexes/1/*.hnsw"), sorted(folder.glob("indexes/1/lexical/*.idx"))
    flip(graph, graph.stat().st_size // 2)
    words.write_bytes(words.read_bytes()[:-20])
    return graph, words


def test_damaged_files_are_named_and_built_anew(data: Path) -> None:
    graph, words = damage(data)
    told = winnow("check", "--data-dir", data, code=1)
    assert f"default: the index of vectors can't be used as it is on disk: {graph.name} is damaged" in told
    assert f"default: the index of words can't be used as it is on disk: {words.name} is damaged" in told
    assert "wrong: 2" in told
    assert "all is well" in winnow("check", "--data-dir", data, "--repair")
    assert "all is well" in winnow("check", "--data-dir", data)
    (data / "indexes/1/manifest.json").unlink()
    assert "there is no manifest.json" in winnow("check", "--data-dir", data, code=1)


def test_indexes_that_are_newer_than_a_database_put_back_empty_are_named(data: Path, tmp_path: Path) -> None:
    with listening(fakes(tmp_path / "empty", sparse="fake")):
        pass
    assert "all is well" in winnow("check", "--data-dir", tmp_path / "empty")

    shutil.copy(tmp_path / "empty/winnow.db", data / "winnow.db")

    told = winnow("check", "--data-dir", data, code=1)
    for part in ("vectors", "words"):
        assert f"the index of {part} can't be used as it is on disk: it has seen changes that the log" in told
    assert "all is well" in winnow("check", "--data-dir", data, "--repair")
    assert "all is well" in winnow("check", "--data-dir", data)


def test_an_index_that_lacks_a_change_is_found_on_disk(data: Path) -> None:
    """A whole snapshot with a good checksum that does not hold what the truth does."""
    with truth(data) as db:
        db.execute("INSERT INTO vectors (chunk, vector) SELECT 9999, vector FROM vectors WHERE chunk = 1")
        db.execute('INSERT INTO chunks SELECT 9999, document, start, "end", tokens, text, page, last_page, heading'
                   ' FROM chunks WHERE number = 1')  # fmt: skip
        db.execute("UPDATE documents SET chunks = 2 WHERE number = (SELECT document FROM chunks WHERE number = 1)")
    told = winnow("check", "--data-dir", data, code=1)
    assert "the index of vectors lacks searchable chunks: 1 (chunks 9999 …)" in told
    assert "searchable chunks without a sparse vector: 1" in told
    assert "can't be built anew" in told
    assert "repaired default: the index of words" in winnow("check", "--data-dir", data, "--repair", code=1)


def test_what_is_wrong_with_the_truth_is_said_and_not_repaired(data: Path) -> None:
    with truth(data) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("DELETE FROM vectors WHERE chunk = 3")
        db.execute("UPDATE vectors SET vector = x'0000' WHERE chunk = 4")
        db.execute("DELETE FROM documents WHERE id = 'd6'")
        db.execute("UPDATE documents SET text = 'short' WHERE id = 'd8'")
    told = winnow("check", "--data-dir", data, code=1)
    for part in (
        "rows of chunks that belong to nothing: 1",
        "documents shorter than their chunks reach: 1",
        "searchable chunks without a vector: 1",
        "chunks with a vector of another length than the collection's: 1",
    ):
        assert part in told


def test_a_searchable_document_that_no_search_finds_is_said(data: Path) -> None:
    with truth(data) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("DELETE FROM chunks WHERE document = 3")
        db.execute("UPDATE documents SET chunks = 0 WHERE number = 3")
    assert "searchable documents without a chunk: 1" in winnow("check", "--data-dir", data, code=1)


def test_a_damaged_database_is_said_to_be_damaged(data: Path) -> None:
    database = data / "winnow.db"
    content = bytearray(database.read_bytes())
    page = content.rindex(b"of many words") // 4096 * 4096
    content[page : page + 4096] = bytes(4096)
    database.write_bytes(content)
    assert "the database file is damaged" in winnow("check", "--data-dir", data, code=1)
    database.write_bytes(b"no database at all" * 1000)
    assert "can't be opened" in winnow("check", "--data-dir", data, code=1)


async def test_a_damaged_snapshot_of_a_running_service_is_written_anew(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await service.ingest(*documents(30))
        await service.engine.collections.save()
        await asyncio.to_thread(damage, tmp_path)
        found = await check(service)
        assert [each["part"] for each in found["findings"]] == ["vectors", "words"]
        assert all("can't be used as it is on disk" in each for each in problems(found))
        await check(service, repair=True)
        assert (await check(service))["findings"] == []
        assert len(await service.found("topic of many words", top_k=30)) == 30
    assert "all is well" in await asyncio.to_thread(winnow, "check", "--data-dir", tmp_path)


async def test_a_repair_ends_when_its_collection_is_dropped(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.client.post("/collections", json={"name": "passing"})
        await service.ingest(*documents(30), collection="passing")
        index = service.engine.collections.shelf("passing").indexes.dense.index
        index.apply([Change(index.sequence, 3, None)])
        with held_up(Indexes, "tidy"):
            await service.client.post("/check", json={"repair": True})
            report = service.engine.checks.report
            await until(lambda: "anew" in report.what)
            await service.client.delete("/collections/passing")
            await until(lambda: report.state != "running")
        assert (report.state, report.findings) == ("done", [])


async def test_a_check_goes_on_when_a_collection_is_dropped_whose_graph_is_being_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.client.post("/collections", json={"name": "passing"})
        await service.ingest(*documents(30), collection="passing")
        begun, dropped, save = Event(), Event(), HnswIndex.save

        def save_at_last(index: HnswIndex, path: Path) -> int:
            if len(index):
                begun.set()
                assert dropped.wait(PATIENCE)
            return save(index, path)

        monkeypatch.setattr(HnswIndex, "save", save_at_last)
        await service.client.post("/check", json={})
        report = service.engine.checks.report
        try:
            assert await asyncio.to_thread(begun.wait, PATIENCE)
            assert (await service.client.delete("/collections/passing")).status_code == 204
        finally:
            dropped.set()
        await until(lambda: report.state != "running")
        assert (report.state, report.findings) == ("done", [])


async def test_what_is_wrong_is_told_whatever_place_a_collection_has_by_then(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(30))
        await service.client.post("/collections/default/standby", json={"recipe": {"overlap_tokens": 16}})
        index = shelf_of(service).indexes.dense.index
        index.apply([Change(index.sequence, 3, None)])
        with held_up(Checks, "_documents"):
            await service.client.post("/check", json={})
            assert (await service.client.post("/collections/default/switch", json={})).status_code == 200
        report = service.engine.checks.report
        await until(lambda: report.state != "running")
        assert [(each.collection, each.chunks) for each in report.findings] == [("default~standby", (3,))]


async def test_one_check_at_a_time(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(600))
        answers = [await service.client.post("/check", json={}) for _ in range(2)]
        assert answers[0].status_code == 202
        problem(answers[1], 409, "conflict")


async def test_a_graph_that_there_is_no_room_for_is_not_written_to_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(30))
        monkeypatch.setattr(snapshot, "disk_usage", lambda folder: SimpleNamespace(free=100))
        await service.client.post("/check", json={})
        report = service.engine.checks.report
        await until(lambda: report.state != "running")
        assert report.state == "failed"
        assert report.error is not None
        assert "has 100 bytes free" in report.error
