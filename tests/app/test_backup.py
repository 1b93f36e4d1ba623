"""Backups of a service at work and of one that is stopped, restored elsewhere and searched again."""

from __future__ import annotations

import asyncio
import json
import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import apsw
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from app.cli import app
from app.errors import Unavailable
from app.stores import backup as gathering
from app.stores.archive import MANIFEST, Part
from app.stores.data_dir import COPY, DATABASE, PARTIAL, RESTORED
from app.stores.sqlite import Database
from tests.app.serving import (
    PATIENCE,
    Json,
    Service,
    body,
    documents,
    fakes,
    listening,
    nothing_embedded,
    serving,
    until,
)
from tests.app.traffic import Traffic, text_of

SEARCHES: tuple[Json, ...] = (
    {},
    {"mode": "dense"},
    {"mode": "lexical"},
    {"mode": "sparse"},
    {"exact": True},
    {"rerank": False},
    {"filter": {"n": {"$lt": 20}}},
    {"filter": {"odd": True}, "mode": "dense", "exact": True},
)


def winnow(*arguments: object, code: int = 0) -> str:
    """Run a command here; what it said."""
    ran = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, arguments)])
    assert ran.exit_code == code, ran.output
    return ran.output


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < deadline, "it never came to pass"
        sleep(0.01)


@contextmanager
def proxied(address: str) -> Iterator[str]:
    """What hands on an answer piece by piece, without saying how long it is, as proxies that pack them do."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with httpx.stream("GET", f"{address}{self.path}", timeout=PATIENCE) as answer:
                self.send_response(answer.status_code)
                self.end_headers()
                for piece in answer.iter_bytes():
                    self.wfile.write(piece)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_backup_comes_through_a_proxy_that_does_not_tell_its_length(tmp_path: Path) -> None:
    with listening(fakes(tmp_path / "data")) as server, proxied(str(server.base_url).rstrip("/")) as address:
        server.post("/ingest", json={"documents": documents(5)}).raise_for_status()
        assert "checked" in winnow("backup", tmp_path / "winnow.tar", "--url", address)
    assert "restored" in winnow("restore", tmp_path / "winnow.tar", "--data-dir", tmp_path / "again")


def answers(client: httpx.Client) -> list[Json]:
    """What all kinds of searches find, less how long it took."""
    asked = [{"query": f"topic {n} of", "top_k": 20, **more} for n in (3, 17, 41) for more in SEARCHES]
    return [told(client.post("/search", json=body)) for body in asked]


def told(answer: httpx.Response) -> Json:
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return {name: value for name, value in found.items() if name not in ("timings", "total_ms")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Json]]:
    """A backup of a running service, its data folder after it has stopped, and what it answered."""
    folder = tmp_path_factory.mktemp("made")
    data, file = folder / "data", folder / "winnow.tar"
    with listening(fakes(data, sparse="fake")) as client:
        some = [each | {"metadata": {"n": n, "odd": bool(n % 2)}} for n, each in enumerate(documents(60))]
        assert client.post("/ingest", json={"documents": some}).status_code == 200
        assert client.post("/collections", json={"name": "empty"}).status_code == 201
        client.post("/documents/delete", json={"ids": ["d5", "d6"]})
        wait_for(lambda: client.get("/collections/default").json()["lexical_chunks"] == 58)
        before = answers(client)
        said = winnow("backup", file, "--url", client.base_url)
        assert f"{file.stat().st_size:,} bytes, checked" in said
        assert "default: 58 documents" in said
    return file, data, before


def test_a_restored_service_answers_as_the_one_that_was_backed_up(
    made: tuple[Path, Path, list[Json]], tmp_path: Path
) -> None:
    file, _, before = made
    winnow("restore", file, "--data-dir", tmp_path)
    with listening(fakes(tmp_path, sparse="fake")) as client:
        assert answers(client) == before
        names = [each["name"] for each in client.get("/collections").json()["collections"]]
        assert names == ["default", "empty"]
        client.post("/ingest", json={"documents": [{"id": "new", "text": "topic 3 of late"}]})
        assert client.get("/documents/new").status_code == 200


def test_nothing_is_built_again_after_a_restore(made: tuple[Path, Path, list[Json]], tmp_path: Path) -> None:
    winnow("restore", made[0], "--data-dir", tmp_path)
    asyncio.run(check_restored(tmp_path, {}, {}))


def assert_nothing_was_built(service: Service) -> None:
    """An index that was built at the start has nothing on disk yet."""
    indexes = service.engine.collections.shelf("default").indexes
    assert indexes.dense.saved > 0
    assert indexes.lexical.saved > 0


def test_a_stopped_service_is_backed_up_without_opening_it(made: tuple[Path, Path, list[Json]], tmp_path: Path) -> None:
    file, data, before = tmp_path / "of_folder.tar", made[1], made[2]
    assert "default: 58 documents" in winnow("backup", file, "--data-dir", data)
    winnow("restore", file, "--data-dir", tmp_path / "data")
    with listening(fakes(tmp_path / "data", sparse="fake")) as client:
        assert answers(client) == before
    assert "There is no data" in winnow("backup", file, "--data-dir", tmp_path / "nowhere", code=2)


def test_backups_under_traffic_have_all_that_was_acknowledged_before_and_nothing_by_half(tmp_path: Path) -> None:
    backups: list[tuple[Path, dict[str, int], dict[str, int]]] = []
    settings = fakes(tmp_path / "data", sparse="fake", snapshot_changes=40, snapshot_seconds=0.1)
    with listening(settings) as client:
        traffic = Traffic(client)
        traffic.start()
        try:
            while len(traffic.acknowledged) < 100:
                traffic.join(0.05)
                assert traffic.is_alive()
            for n in range(3):
                before = dict(traffic.acknowledged)
                winnow("backup", tmp_path / f"{n}.tar", "--url", client.base_url)
                assert traffic.is_alive()
                backups.append((tmp_path / f"{n}.tar", before, dict(traffic.asked)))
        finally:
            traffic.done.set()
            traffic.join()
    for file, before, after in backups:
        target = tmp_path / file.stem
        winnow("restore", file, "--data-dir", target)
        asyncio.run(check_restored(target, before, after))


async def check_restored(folder: Path, before: dict[str, int], after: dict[str, int]) -> None:
    async with serving(fakes(folder, sparse="fake")) as service:
        assert_nothing_was_built(service)
        await check_documents(service, before, after)
        await check_indexes(service)


async def check_documents(service: Service, before: dict[str, int], after: dict[str, int]) -> None:
    for name, version in before.items():
        answer = await service.client.get(f"/documents/{name}")
        if after[name] == version:  # nothing happened to it during the backup
            assert (answer.status_code == 200) == (version > 0), name
            assert version < 0 or answer.json()["text"] == text_of(name, version)
        elif answer.status_code == 200:
            text = answer.json()["text"]
            assert text == text_of(name, int(text.split()[3]))


async def check_indexes(service: Service) -> None:
    """All that was pending is taken up, and every index comes to hold what the truth does."""
    deadline = monotonic() + PATIENCE
    while not is_settled(held := body(await service.client.get("/collections/default"))):
        assert monotonic() < deadline, held
        await asyncio.sleep(0.02)


def is_settled(held: Json) -> bool:
    counts = {held[name] for name in ("chunks", "index_chunks", "lexical_chunks", "sparse_chunks")}
    return not held["pending"] and len(counts) == 1


def test_a_damaged_backup_is_refused_and_replaces_nothing(made: tuple[Path, Path, list[Json]], tmp_path: Path) -> None:
    whole, chance = made[0].read_bytes(), random.Random(3)
    bad, data = tmp_path / "bad.tar", tmp_path / "data"
    with tarfile.open(made[0]) as tar:
        contents = [(each.offset_data, each.size) for each in tar if each.size]
    for begin, size in contents:
        at = begin + chance.randrange(size)
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        if begin != contents[0][0]:  # a date in the manifest may change without being missed
            winnow("restore", bad, "--data-dir", data, code=2)
    for length in (0, 300, 5000, len(whole) // 2, contents[-1][0] + 1):
        bad.write_bytes(whole[:length])
        winnow("restore", bad, "--data-dir", data, code=2)
    assert [path.name for path in data.iterdir()] == ["lock"]


@pytest.mark.parametrize("newer", [{"format": 99}, {"database": 9999}])
def test_a_backup_of_a_later_version_is_refused(
    made: tuple[Path, Path, list[Json]], newer: Json, tmp_path: Path
) -> None:
    with tarfile.open(made[0]) as old, tarfile.open(tmp_path / "newer.tar", "w") as tar:
        for entry in old:
            content = old.extractfile(entry)
            assert content is not None
            if entry.name == MANIFEST:
                (tmp_path / MANIFEST).write_text(json.dumps(json.load(content) | newer))
                tar.add(tmp_path / MANIFEST, MANIFEST)
            else:
                tar.addfile(entry, content)
    assert "a later version" in winnow("restore", tmp_path / "newer.tar", "--data-dir", tmp_path / "data", code=2)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(
        json.dumps(
            {"format": 1, "winnow": "0", "database": 1, "created_at": "", "collections": []}
            | {"members": [{"name": "indexes/1/../../../evil", "bytes": 4, "sha256": "0" * 64}]}
        )
    )
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.add(tmp_path / MANIFEST, MANIFEST)
    assert "is damaged" in winnow("restore", tmp_path / "evil.tar", "--data-dir", tmp_path / "data", code=2)


def test_what_is_there_is_left_alone_unless_forced_and_then_put_aside(
    made: tuple[Path, Path, list[Json]], tmp_path: Path
) -> None:
    with listening(fakes(tmp_path)) as client:
        client.post("/ingest", json={"documents": [{"id": "mine", "text": "an older document"}]})
        assert "stop it first" in winnow("restore", made[0], "--data-dir", tmp_path, "--force", code=2)
    assert "is not empty" in winnow("restore", made[0], "--data-dir", tmp_path, code=2)
    assert "What was there before is in" in winnow("restore", made[0], "--data-dir", tmp_path, "--force")
    with listening(fakes(tmp_path, sparse="fake")) as client:
        assert client.get("/documents/mine").status_code == 404
        assert answers(client) == made[2]
    (aside,) = tmp_path.glob("replaced-*")
    with listening(fakes(aside)) as client:
        assert client.get("/documents/mine").status_code == 200


def test_a_restore_that_was_killed_leaves_the_old_or_the_new(
    made: tuple[Path, Path, list[Json]], tmp_path: Path
) -> None:
    """The folder as a kill leaves it between any two of the steps that change it."""
    new, old = tmp_path / "new", tmp_path / "old"
    winnow("restore", made[0], "--data-dir", new)
    with listening(fakes(old)) as client:
        client.post("/ingest", json={"documents": [{"id": "mine", "text": "an older document"}]})

    half = old / PARTIAL
    half.mkdir()
    (half / "winnow.db").write_bytes(b"the beginning of a database")
    (old / f"{COPY}1").write_bytes(b"the beginning of a copy")
    with listening(fakes(old)) as client:
        assert client.get("/documents/mine").status_code == 200
    assert not half.exists()
    assert not list(old.glob(f"{COPY}*"))

    whole = old / f"{RESTORED}20260101T000000"
    whole.mkdir()
    (new / "winnow.db").rename(whole / "winnow.db")
    (old / "indexes").rename(old / "replaced-indexes")
    (new / "indexes").rename(old / "indexes")  # the first of two places is taken, the other is still the old one's
    with listening(fakes(old, sparse="fake")) as client:
        assert client.get("/documents/mine").status_code == 404
        assert answers(client) == made[2]
    assert not whole.exists()


def test_a_backup_that_nobody_waits_for_leaves_nothing_and_keeps_nobody_out(tmp_path: Path) -> None:
    with listening(fakes(tmp_path / "data")) as client:
        client.post("/ingest", json={"documents": documents(400, "topic {0} " * 200)})

        def is_left() -> bool:
            """Begun and not read on; refused as long as the service has not noticed that of the one before."""
            with client.stream("GET", "/backup") as answer:
                assert answer.status_code in (200, 409)
                assert client.get("/backup").status_code in (200, 409)
                return answer.status_code == 200

        for _ in range(3):
            wait_for(is_left)
        wait_for(lambda: not list((tmp_path / "data").glob("backup*")))
        wait_for(lambda: client.get("/backup").status_code == 200)


async def test_a_backup_that_is_left_while_the_indexes_are_being_saved_ends_at_once(service: Service) -> None:
    async def back_up() -> None:
        async with service.engine.backups.make():
            pytest.fail("the indexes could not be saved")

    with nothing_embedded():
        await service.client.post("/ingest", json={"documents": documents(1), "wait": False})
        await until(lambda: service.sample("winnow_index_lag_documents", collection="default"))
        for _ in range(2):
            asked = asyncio.create_task(back_up())
            await asyncio.sleep(0.2)
            asked.cancel()
            assert await asyncio.wait([asked], timeout=2) == ({asked}, set())
            assert asked.cancelled()


def test_backups_are_counted_by_whether_they_were_taken_to_the_end(tmp_path: Path) -> None:
    with listening(fakes(tmp_path / "data")) as client:
        client.post("/ingest", json={"documents": documents(400, "topic {0} " * 400)})

        def counted() -> dict[str, float]:
            families = text_string_to_metric_families(client.get("/metrics").text)
            (backups,) = (family for family in families if family.name == "winnow_backups")
            return {each.labels["outcome"]: each.value for each in backups.samples if each.name.endswith("_total")}

        assert counted() == {"taken": 0, "failed": 0}
        assert client.get("/backup").status_code == 200
        assert counted() == {"taken": 1, "failed": 0}
        with client.stream("GET", "/backup"):
            pass
        wait_for(lambda: counted() == {"taken": 1, "failed": 1})


def test_a_service_that_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    winnow("backup", tmp_path / "b.tar", "--url", "http://127.0.0.1:9", code=3)
    assert not list(tmp_path.iterdir())


def test_a_backup_that_is_given_up_while_it_is_read_for_its_checksums_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, copy = threading.Event(), gathering._copy

    def given_up_then(*given: Any) -> Part:
        copied = copy(*given)
        stopping.set()
        return copied

    monkeypatch.setattr(gathering, "_copy", given_up_then)
    Database(tmp_path / DATABASE).close()
    with closing(apsw.Connection(str(tmp_path / DATABASE))) as db, pytest.raises(Unavailable, match="given up"):
        gathering.gather(db, tmp_path, stopping)
