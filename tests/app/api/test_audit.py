"""The audit log of writes."""

from __future__ import annotations

import asyncio
import resource
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from app.api.access import NEEDS
from app.api.audit import ACTIONS
from app.stores import audit
from app.stores.keys import KeyFile
from tests.app.serving import Json, Service, documents, fakes, problem, serving

READS = {
    "POST /search", "POST /rerank", "POST /v1/rerank", "POST /v2/rerank", "POST /v1/embeddings", "POST /embed",
    "POST /ingest/files/known", "POST /documents/list",
}  # fmt: skip


def told(path: Path) -> list[Json]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
async def audited(tmp_path: Path, log: Path) -> AsyncIterator[Service]:
    async with serving(fakes(tmp_path / "data", audit=log)) as service:
        yield service


def test_every_route_that_is_not_known_to_read_is_told() -> None:
    asked = {route for route in NEEDS if not route.startswith("GET ")}
    assert asked - READS <= ACTIONS.keys()
    assert not ACTIONS.keys() & READS
    assert ACTIONS.keys() <= NEEDS.keys()


async def test_each_write_is_told_with_what_came_of_it_and_without_any_text(audited: Service, log: Path) -> None:
    client, mark = audited.client, "Zyxwvut"
    line = orjson.dumps({"id": mark, "text": mark})
    ndjson = {"content-type": "application/x-ndjson", "x-request-id": "of-the-caller"}
    await client.post("/collections", json={"name": "papers"})
    await client.post("/ingest", json={"documents": documents(3, mark), "collection": "papers"})
    await client.post("/ingest?collection=papers", content=line + b"\n{\n", headers=ndjson)
    await client.post("/ingest/files", files={"files": (f"{mark}.txt", mark.encode())})
    await client.post("/ingest", json={"documents": [{"text": 1}], "collection": mark})
    await client.post("/ingest", json={"documents": [{"text": mark}], "collection": mark})
    await client.post("/documents/delete", json={"ids": ["d0", "d1", mark], "collection": "papers"})
    await client.post("/documents/update", json={"ids": ["d0", "d2"], "metadata": {mark: 1}, "collection": "papers"})
    await client.patch("/documents/d2?collection=papers", json={"metadata": {mark: 1}})
    await client.delete("/documents/none")
    await client.post("/search", json={"query": mark})
    await client.delete("/collections/papers")
    found = told(log)
    assert [(each["action"], each["status"], each.get("collection"), each.get("documents")) for each in found] == [
        ("create collection", 201, "papers", None),
        ("ingest", 200, "papers", 3),
        ("ingest", 200, "papers", 1),
        ("ingest files", 200, "default", 1),
        ("ingest", 422, None, None),
        ("ingest", 404, None, None),
        ("delete documents", 200, "papers", 3),
        ("update documents", 200, "papers", 1),
        ("update document", 200, "papers", 1),
        ("delete document", 404, "default", None),
        ("drop collection", 204, "papers", None),
    ]
    assert {each["caller"] for each in found} == {"loopback"}
    assert found[2]["request_id"] == "of-the-caller"
    assert all(mark not in str(each) for each in found)


async def test_feedback_on_several_collections_names_them_all(audited: Service, log: Path) -> None:
    for name in ("one", "two"):
        await audited.client.post("/collections", json={"name": name})
        await audited.client.post("/ingest", json={"documents": [{"id": "a", "text": "a"}], "collection": name})
    opinion = {"query": "a", "document": "a", "relevant": True}
    several = [opinion | {"collection": name} for name in ("one", "two", "one")]
    assert (await audited.client.post("/feedback", json=several)).status_code == 200
    assert told(log)[-1]["collections"] == ["one", "two"]
    assert (await audited.client.post("/feedback", json=several[:1])).status_code == 200
    assert told(log)[-1]["collection"] == "one"


async def test_a_key_is_told_by_its_id_and_who_was_not_let_in_not_at_all(tmp_path: Path, log: Path) -> None:
    file, batch = KeyFile(tmp_path / "keys.json"), {"documents": documents(1)}
    key, shown = file.create("loader", ["ingest"], [], None)
    _, lacking = file.create("app", ["search"], [], None)
    async with serving(fakes(tmp_path / "data", audit=log, keys=file.path)) as service:
        problem(await service.client.post("/ingest", json=batch), 401, "unauthenticated")
        problem(await service.client.post("/ingest", json=batch, headers={"x-api-key": lacking}), 403, "forbidden")
        await service.client.post("/ingest", json=batch, headers={"x-api-key": shown})
        assert [each["caller"] for each in told(log)] == [key.id]


async def test_a_write_that_can_not_be_told_is_not_confirmed(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path / "data", audit=tmp_path)) as service:
        answer = await service.client.post("/ingest", json={"documents": documents(1)})
        assert "audit log" in problem(answer, 503, "unavailable")["detail"]
        assert (await service.client.post("/search", json={"query": "topic"})).status_code == 200


async def test_a_file_that_was_moved_away_is_begun_anew(audited: Service, log: Path) -> None:
    await audited.ingest(*documents(1))
    await asyncio.to_thread(log.rename, log.with_suffix(".1"))
    await audited.ingest(*documents(1))
    assert [len(told(path)) for path in (log, log.with_suffix(".1"))] == [1, 1]


def test_a_line_is_whole_or_not_there(log: Path) -> None:
    audit.append(log, {"action": "first"})
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    before, limit = log.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            audit.append(log, {"action": "second"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert log.read_bytes() == before
    audit.append(log, {"action": "third"})
    assert [each["action"] for each in told(log)] == ["first", "third"]
