"""SIGTERM lets requests end, takes no new ones, and loses nothing; a second one, or patience, ends it anyway."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from time import sleep

import apsw
import httpx
import pytest

from app.stores.data_dir import DATABASE
from app.stores.sqlite import Database
from loadtest import truth
from loadtest.kills import SETTINGS, WRITERS, Trial
from loadtest.ledger import Ledger, bodies
from loadtest.process import Process
from tests.app.serving import documents, fakes, serving

AT_ONCE = 4
SLOW = {"query": "a topic of many words", "candidates": 200, "top_k": 200}
"""A second for a reranker that takes 5 ms for each."""

BEYOND_BUFFERS = 50_000_000
"""More bytes than lie between a service and a client that does not read."""


@contextmanager
def half_a_request(service: Process) -> Iterator[socket.socket]:
    """A client that sends the rest of its body never."""
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = f"POST /search HTTP/1.1\r\nhost: 127.0.0.1:{service.port}\r\ncontent-length: 100\r\n\r\n{{"
        connection.sendall(head.encode())
        sleep(0.2)  # for it to come in
        yield connection


def test_requests_under_way_are_answered_and_new_ones_are_not_taken(tmp_path: Path) -> None:
    with (
        Process(tmp_path, RERANKER="fake:slow", QUEUE_TOKENS=10**7, QUEUE_SECONDS=60) as service,
        ThreadPoolExecutor(2 * AT_ONCE) as threads,
    ):
        service.await_ready()
        service.client.post("/ingest", json={"documents": documents(200)})
        searches = [threads.submit(service.client.post, "/search", json=SLOW) for _ in range(AT_ONCE)]
        sleep(0.3)
        late = {"documents": [{"id": "late", "text": "one more"}], "wait": True}
        ingest = threads.submit(service.client.post, "/ingest", json=late)
        sleep(0.2)
        service.send(signal.SIGTERM)
        sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.post(f"{service.client.base_url}/search", json=SLOW)
        for search in searches:
            answer = search.result()
            assert answer.status_code == 200, answer.text
            assert answer.json()["reranked"] == 200
        assert ingest.result().status_code == 200
        assert service.end_by_itself() == 0
        service.start()
        service.await_ready()
        assert service.client.get("/documents/late").status_code == 200


def test_under_traffic_what_was_not_answered_was_not_done(tmp_path: Path) -> None:
    chance, ledgers = random.Random(1), [Ledger(name) for name in "abc"[:WRITERS]]
    codes: list[int] = []
    with Process(tmp_path, **SETTINGS) as service:
        trial = Trial(service, tmp_path, ledgers)
        service.await_ready()
        trial.traffic(chance, lambda: codes.append(service.stop()))
        assert codes == [0]
        stored = truth.read(tmp_path).versions()
        for ledger in ledgers:
            undone = {document: ledger.held.get(document) for document in ledger.pending}
            assert {document: stored.get(document) for document in ledger.pending} == undone
        trial.restart(chance)
        trial.check(chance)


def test_what_waited_is_taken_up_at_the_next_start(tmp_path: Path) -> None:
    ledger = Ledger("d", {f"d{i}": 1 for i in range(200)})
    with Process(tmp_path, **SETTINGS) as service:
        service.await_ready()
        answer = service.client.post("/ingest", json={"documents": bodies(ledger.held), "wait": False})
        ledger.jobs.append(answer.json()["job"])
        assert service.stop() == 0
        service.start()
        trial = Trial(service, tmp_path, [ledger])
        trial.await_settled()
        trial.check(random.Random(1))


async def test_what_an_index_still_reads_comes_to_its_end_before_the_database_is_closed(tmp_path: Path) -> None:
    reading = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000000) SELECT max(x) FROM c"
    began, read = Event(), list[tuple[int, ...]]()

    def look(db: apsw.Connection) -> None:
        began.set()
        read.extend(db.execute(reading))

    async with serving(fakes(tmp_path)) as service:
        database, index = service.engine.ingest._database, service.engine.collections._threads
        index.submit(database.read_here, look)
        assert await asyncio.to_thread(began.wait, 10)
    assert read == [(2_000_000,)]


def test_who_never_ends_is_cut_off_when_patience_ends(tmp_path: Path) -> None:
    with Process(tmp_path, SHUTDOWN_TIMEOUT=1) as service:
        service.await_ready()
        with half_a_request(service) as connection:
            assert service.stop() == 0
            connection.settimeout(1)
            answer = connection.recv(4096).decode()
            assert answer.startswith("HTTP/1.1 503")
            assert "The service is stopping" in answer


def test_an_answer_on_its_way_is_cut_off_without_a_traceback_when_patience_ends(tmp_path: Path) -> None:
    service = Process(tmp_path, SHUTDOWN_TIMEOUT=1)
    Database(tmp_path / DATABASE).close()
    with closing(apsw.Connection(str(tmp_path / DATABASE))) as db:
        db.execute(f"CREATE TABLE ballast AS SELECT zeroblob({BEYOND_BUFFERS}) AS bytes")
    with (tmp_path / "log").open("w+b") as service.errors, service:
        service.await_ready()
        with service.client.stream("GET", "/backup") as answer:
            assert answer.status_code == 200
            assert service.stop() == 0
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_service_that_is_still_being_opened_ends_at_once(tmp_path: Path) -> None:
    Database(tmp_path / DATABASE).close()
    with closing(apsw.Connection(str(tmp_path / DATABASE))) as db, Process(tmp_path) as service:
        # Whatever opens the database waits for this, as a start may wait for a model to be converted.
        db.pragma("locking_mode", "exclusive")
        db.execute("BEGIN EXCLUSIVE")
        while not (tmp_path / "lock").exists():
            sleep(0.01)
        assert service.stop() == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with Process(tmp_path) as service:
        service.await_ready()
        with half_a_request(service):
            service.send(signal.SIGTERM)
            sleep(0.5)
            assert service.stop() == 128 + signal.SIGTERM, "it waited for the request"
