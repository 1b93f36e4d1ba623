"""kill -9 at random moments: what was acknowledged is found afterwards, and nothing is half there."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx

from tests.process import Process

KILLS = 20
SEED = 20_26
INDEXES = ("index_chunks", "lexical_chunks", "sparse_chunks")


def text_of(document: str, version: int) -> str:
    """No two versions share their telling word; some are long enough for several chunks."""
    return f"w{document}v{version} and more " * (150 if version % 5 == 0 else 3)


@dataclass
class Ledger:
    """What the service has acknowledged, and what it was about to when it was killed."""

    held: dict[str, int] = field(default_factory=dict)
    """Documents by their acknowledged version."""
    gone: set[str] = field(default_factory=set)
    pending: dict[str, int | None] = field(default_factory=dict)
    """A request without an answer: all of it may be done, or none; None stands for a deletion."""
    count: int = 0

    def acknowledge(self) -> None:
        for document, version in self.pending.items():
            if version is None:
                self.held.pop(document, None)
                self.gone.add(document)
            else:
                self.held[document] = version
        self.pending = {}


class Writer(threading.Thread):
    """Creates, replaces and deletes without pause until the service is gone."""

    def __init__(self, client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
        super().__init__()
        self._client, self._ledger, self._chance = client, ledger, chance

    def run(self) -> None:
        try:
            while True:
                self._step()
        except httpx.TransportError:
            return

    def _step(self) -> None:
        delete = len(self._ledger.held) > 20 and self._chance.random() < 0.2
        self._ledger.pending = self._deletion() if delete else self._ingest()
        if delete:
            answer = self._client.post("/documents/delete", json={"ids": list(self._ledger.pending)})
        else:
            answer = self._client.post(
                "/ingest", json={"documents": self._documents(), "wait": self._chance.random() < 0.3}
            )
        assert answer.status_code in (200, 202), answer.text
        self._ledger.acknowledge()

    def _deletion(self) -> dict[str, int | None]:
        return dict.fromkeys(self._chance.sample(sorted(self._ledger.held), 3))

    def _ingest(self) -> dict[str, int | None]:
        ledger = self._ledger
        ledger.count += 1
        new: dict[str, int | None] = {f"d{ledger.count}x{i}": ledger.count for i in range(self._chance.randint(1, 8))}
        old = self._chance.sample(sorted(ledger.held), min(2, len(ledger.held)))
        return new | dict.fromkeys(old, ledger.count)

    def _documents(self) -> list[dict[str, Any]]:
        pending = self._ledger.pending.items()
        return [
            {"id": document, "text": text_of(document, version), "metadata": {"version": version}}
            for document, version in pending
            if version is not None
        ]


def test_what_was_acknowledged_survives_kill_9_at_twenty_random_moments(tmp_path: Path) -> None:
    chance, ledger = random.Random(SEED), Ledger()
    with Process(tmp_path, SPARSE="fake", SNAPSHOT_CHANGES=40, SNAPSHOT_SECONDS=0.3) as service:
        for _ in range(KILLS):
            service.await_ready()
            writer = Writer(service.client, ledger, chance)
            writer.start()
            sleep(chance.uniform(0.02, 0.8))
            service.kill()
            writer.join()
            service.start()
            service.await_ready()
            settle(service.client)
            see_what_came_of_the_last_request(service.client, ledger)
            check_documents(service.client, ledger, chance)
        assert len(ledger.held) > KILLS
        check_every_document_is_found(service.client, ledger)


def test_a_kill_while_starting_loses_nothing(tmp_path: Path) -> None:
    with Process(tmp_path, SPARSE="fake", SNAPSHOT_CHANGES=40) as service:
        service.await_ready()
        documents = [{"id": f"d{i}", "text": text_of(f"d{i}", 1)} for i in range(300)]
        assert service.client.post("/ingest", json={"documents": documents, "wait": False}).status_code == 202
        for pause in (0.3, 0.6, 0.9, 1.2):
            service.kill()
            service.start()
            sleep(pause)
        service.await_ready()
        settle(service.client)
        assert service.client.get("/collections/default").json()["documents"] == 300
        check_every_document_is_found(service.client, Ledger({f"d{i}": 1 for i in range(300)}))


def test_a_stop_is_clean_and_what_waited_is_taken_up_at_the_next_start(tmp_path: Path) -> None:
    with Process(tmp_path, SPARSE="fake") as service:
        service.await_ready()
        documents = [{"id": f"d{i}", "text": text_of(f"d{i}", 1)} for i in range(500)]
        job = service.client.post("/ingest", json={"documents": documents, "wait": False}).json()["job"]
        assert service.stop() == 0
        service.start()
        service.await_ready()
        settle(service.client)
        assert service.client.get(f"/jobs/{job}").json()["state"] == "done"
        assert found(service.client, "d499", 1)


def is_settled(held: dict[str, Any]) -> bool:
    return not held["pending"] and {held[index] for index in INDEXES} == {held["chunks"]}


def settle(client: httpx.Client) -> None:
    """Wait until nothing waits any more: jobs resume by themselves, and indexes come to hold what the truth does."""
    deadline = monotonic() + 60
    while not is_settled(held := client.get("/collections/default").json()):
        assert monotonic() < deadline, f"what waited was not taken up: {held}"
        sleep(0.05)


def see_what_came_of_the_last_request(client: httpx.Client, ledger: Ledger) -> None:
    """It was not answered, so it may have been carried out or not; but not in part."""
    if not ledger.pending:
        return
    done = {document: stands(client, document, version) for document, version in ledger.pending.items()}
    assert len(set(done.values())) == 1, f"half of a request is there: {done}"
    if all(done.values()):
        ledger.acknowledge()
    ledger.pending = {}


def stands(client: httpx.Client, document: str, version: int | None) -> bool:
    answer = client.get(f"/documents/{document}")
    if version is None:
        return answer.status_code == 404
    return answer.status_code == 200 and answer.json()["metadata"] == {"version": version}


def check_documents(client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
    held = client.get("/collections/default").json()
    assert held["documents"] == len(ledger.held)
    assert {held[index] for index in INDEXES} == {held["chunks"]}
    for document in chance.sample(sorted(ledger.held), min(25, len(ledger.held))):
        assert found(client, document, ledger.held[document])
    for document in chance.sample(sorted(ledger.gone), min(5, len(ledger.gone))):
        assert client.get(f"/documents/{document}").status_code == 404


def check_every_document_is_found(client: httpx.Client, ledger: Ledger) -> None:
    assert [document for document, version in ledger.held.items() if not found(client, document, version)] == []


def found(client: httpx.Client, document: str, version: int) -> bool:
    """By its telling word, in every index, whole, and in this version only."""
    query = {"query": f"w{document}v{version}", "top_k": 3, "rerank": False, "exact": True}
    text = text_of(document, version)
    for mode in ("dense", "lexical", "sparse"):
        hits = client.post("/search", json={**query, "mode": mode}).json()["hits"]
        if not hits or hits[0]["document_id"] != document:
            return False
        if hits[0]["text"] != text[hits[0]["start"] : hits[0]["end"]]:
            return False
    return True
