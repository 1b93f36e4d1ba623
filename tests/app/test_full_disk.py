"""A full disk refuses what it has no room for, loses nothing, stops no search, and ends when there is room again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.kills import SETTINGS, Trial
from loadtest.ledger import Ledger, bodies
from loadtest.process import Process
from loadtest.service import free_port
from tests.app.disks import Disk, Limited, Small, mounted
from tests.app.test_cli import winnow

PATIENCE = 30.0
TMPFS_SIZE = "12m"
LARGE = 500
"""Documents that a log of changes has no room for, however often it was begun anew."""


@pytest.fixture(params=["a limit on files", "a small file system"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "a limit on files":
        yield Limited(tmp_path)
    else:
        with mounted(tmp_path, f"size={TMPFS_SIZE}") as folder:
            yield Small(folder)


def named(name: str, amount: int) -> dict[str, int]:
    return {f"{name}{i}": 1 for i in range(amount)}


def ingest(client: httpx.Client, versions: dict[str, int], collection: str = "default") -> httpx.Response:
    return client.post("/ingest", json={"documents": bodies(versions), "collection": collection, "wait": False})


def refuses(answer: httpx.Response) -> None:
    assert answer.status_code == 507, answer.text
    problem = answer.json()
    assert problem["type"] == "urn:winnow:problem:no-space"
    assert "no room on the disk" in problem["detail"]
    assert answer.headers["retry-after"]


def found(client: httpx.Client, document: str, collection: str = "default") -> bool:
    asked = {"query": f"w{document}v1", "top_k": 1, "collection": collection}
    answer = client.post("/search", json=asked)
    assert answer.status_code == 200, answer.text
    return [hit["document_id"] for hit in answer.json()["hits"]] == [document]


def is_full(client: httpx.Client) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(family.samples[0].value for family in families if family.name == "winnow_disk_full")


def until(holds: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < deadline, "it never came to pass"
        sleep(0.05)


def test_a_full_disk_refuses_writes_answers_searches_and_recovers_by_itself(disk: Disk) -> None:
    ledger, large = Ledger("d", named("before", 40)), named("large", LARGE)
    with Process(disk.folder, **SETTINGS) as service:
        service.await_ready()
        assert ingest(service.client, ledger.held).status_code == 202
        until(lambda: found(service.client, "before3"))
        early = named("early", 60)
        assert ingest(service.client, early).status_code == 202
        disk.fill(service)
        refuses(ingest(service.client, large))
        assert found(service.client, "before3")
        assert is_full(service.client)
        ready = service.client.get("/readyz")
        assert ready.status_code == 200
        assert "no room on the disk" in ready.json()["warnings"][0]
        disk.empty(service)
        until(lambda: not is_full(service.client))
        assert service.client.get("/readyz").json()["warnings"] == []
        assert ingest(service.client, large).status_code == 202
        ledger.held |= early | large
        trial = Trial(service, disk.folder, [ledger])
        trial.await_settled()
        trial.check(random.Random(1))
        service.kill()
        service.start()
        trial.await_settled()
        trial.check(random.Random(2))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("limited"), **SETTINGS) as service:
        service.await_ready()
        yield service


def upload(client: httpx.Client, into: str, content: bytes) -> httpx.Response:
    return client.post("/ingest/files", files={"files": ("notes.txt", content)}, data={"collection": into})


WRITES: dict[str, Callable[[httpx.Client, str], httpx.Response]] = {
    "ingest": lambda client, into: client.post("/ingest", json={"documents": [{"text": "new"}], "collection": into}),
    "lines": lambda client, into: client.post(
        "/ingest",
        params={"collection": into},
        content=b'{"text": "a line"}\n',
        headers={"content-type": "application/x-ndjson"},
    ),
    "delete": lambda client, into: client.delete("/documents/d0", params={"collection": into}),
    "delete by filter": lambda client, into: client.post(
        "/documents/delete", json={"filter": {"version": 1}, "collection": into}
    ),
    "create": lambda client, into: client.post("/collections", json={"name": f"{into}-other"}),
    "drop": lambda client, into: client.delete(f"/collections/{into}"),
    "file": lambda client, into: upload(client, into, b"some notes"),
    "long file": lambda client, into: upload(client, into, b"many words " * 100_000),
}
"""The last one waits on another disk until all of it has come."""


@pytest.mark.parametrize("write", WRITES)
def test_everything_that_writes_is_refused_and_works_when_there_is_room(limited: Process, write: str) -> None:
    client, collection, disk = limited.client, write.replace(" ", "-"), Limited(Path())
    assert client.post("/collections", json={"name": collection}).status_code == 201
    assert ingest(client, named("d", 3), collection).status_code == 202
    until(lambda: found(client, "d1", collection))
    disk.fill(limited)
    refuses(WRITES[write](client, collection))
    disk.empty(limited)
    until(lambda: found(client, "d1", collection))
    until(lambda: WRITES[write](client, collection).is_success)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ("size=64k", "is full. Free some room on its disk, or point WINNOW_DATA_DIR elsewhere"),
        ("ro", "a folder that may be written to?"),
    ],
)
def test_a_start_where_nothing_can_be_written_says_so(tmp_path: Path, options: str, advice: str) -> None:
    with mounted(tmp_path, options) as folder:
        told = winnow("serve", "--port", free_port(), "--data-dir", folder)
    assert told.code == 2
    assert advice in told.errors.replace("\n", " ")


def test_a_service_stops_well_on_a_full_disk_and_the_next_start_has_everything(tmp_path: Path) -> None:
    ledger = Ledger("d", named("d", 200))
    with Process(tmp_path, **SETTINGS) as service:
        service.await_ready()
        assert ingest(service.client, ledger.held).status_code == 202
        Limited(tmp_path).fill(service)
        assert service.stop() == 0
        service.start()
        trial = Trial(service, tmp_path, [ledger])
        trial.await_settled()
        trial.check(random.Random(3))
