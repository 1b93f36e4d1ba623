"""Clients of a service that will be killed: what each of them was promised, and whether answers are whole meanwhile."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

MODES = ("dense", "lexical", "sparse", "hybrid")
LONG_EVERY, LONG, SHORT = 5, 150, 3
MOST_HELD = 120
"""From here on a client deletes as much as it creates, so that a long run checks no more each time than a short one."""


class BrokenPromise(Exception):
    """The service lost or tore something that it had acknowledged."""


def text_of(document: str, version: int) -> str:
    """No two versions share their telling word, all share others; some are long enough for several chunks."""
    return f"{telling(document, version)} with words of many " * (SHORT if version % LONG_EVERY else LONG)


def telling(document: str, version: int) -> str:
    return f"w{document}v{version}"


def bodies(versions: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """Documents to send, each in its version; those to be deleted are left out."""
    return [
        {"id": document, "text": text_of(document, version), "metadata": {"version": version}}
        for document, version in versions.items()
        if version is not None
    ]


def require(holds: bool, promise: str) -> None:
    if not holds:
        raise BrokenPromise(promise)


@dataclass
class Ledger:
    """What the service has acknowledged to one client, and what that was about to do when it was cut off."""

    name: str
    held: dict[str, int] = field(default_factory=dict)
    """Documents by their acknowledged version."""
    gone: set[str] = field(default_factory=set)
    pending: dict[str, int | None] = field(default_factory=dict)
    """A request without an answer: all of it may be done, or none; None stands for a deletion."""
    jobs: list[str] = field(default_factory=list)
    """Acknowledged since the last start."""
    count: int = 0

    def acknowledge(self) -> None:
        for document, version in self.pending.items():
            if version is None:
                self.held.pop(document, None)
                self.gone.add(document)
            else:
                self.held[document] = version
        self.pending = {}

    def settle(self, stored: Mapping[str, int]) -> None:
        """See what came of the last request, by what there is of each document: all of it, or nothing."""
        done = {document: stored.get(document) == version for document, version in self.pending.items()}
        require(len(set(done.values())) < 2, f"half of a request is there: {done}")
        if all(done.values()):
            self.acknowledge()
        self.pending = {}


class Writer:
    """Creates, replaces and deletes documents of its own, without pause until the service is gone."""

    def __init__(self, client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
        self._client, self._ledger, self._chance = client, ledger, chance

    def run(self) -> None:
        try:
            while True:
                self._step()
        except httpx.TransportError:
            return

    def _step(self) -> None:
        held, deletes = len(self._ledger.held), self._chance.random()
        if held > MOST_HELD / 6 and deletes < (0.6 if held > MOST_HELD else 0.2):
            self._ledger.pending = dict.fromkeys(self._some(8 if held > MOST_HELD else 3), None)
            self._send("/documents/delete", {"ids": list(self._ledger.pending)})
        else:
            self._ledger.pending = self._new() | dict.fromkeys(self._some(2), self._ledger.count)
            answer = self._send(
                "/ingest", {"documents": bodies(self._ledger.pending), "wait": self._chance.random() < 0.3}
            )
            self._ledger.jobs.append(answer["job"])
        self._ledger.acknowledge()

    def _send(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.post(path, json=body)
        require(answer.status_code in (200, 202), f"{path} answered {answer.status_code}: {answer.text}")
        told: dict[str, Any] = answer.json()
        return told

    def _new(self) -> dict[str, int | None]:
        self._ledger.count += 1
        name, count = self._ledger.name, self._ledger.count
        return {f"{name}{count}x{i}": count for i in range(self._chance.randint(1, 8))}

    def _some(self, most: int) -> list[str]:
        held = sorted(self._ledger.held)
        return self._chance.sample(held, min(most, len(held)))


class Searcher:
    """Searches without pause until the service is gone, and looks at every hit."""

    def __init__(self, client: httpx.Client, ledgers: list[Ledger], chance: random.Random) -> None:
        self._client, self._ledgers, self._chance = client, ledgers, chance

    def run(self) -> None:
        try:
            while True:
                check_hits(hits(self._client, self._question()))
        except httpx.TransportError:
            return

    def _question(self) -> dict[str, Any]:
        """For what may be there at this moment, in some version, or may not be any more."""
        ledger, chance = self._chance.choice(self._ledgers), self._chance
        version = chance.randint(1, ledger.count + 1)
        query = f"{telling(f'{ledger.name}{version}x0', version)} words"
        answers = {"mode": chance.choice(MODES), "exact": chance.random() < 0.3, "rerank": chance.random() < 0.3}
        return {"query": query, "top_k": 10, **answers}


class Operator:
    """Switches to the standby and back without pause until the service is gone."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.switches = 0

    def run(self) -> None:
        try:
            while True:
                self._switch()
        except httpx.TransportError:
            return

    def _switch(self) -> None:
        switched = self._client.post("/collections/default/switch", json={})
        far_behind = switched.status_code == 409 and "not ready to take over" in switched.text
        require(switched.status_code == 200 or far_behind, f"a switch failed: {switched.text}")
        self.switches += switched.status_code == 200


def hits(client: httpx.Client, question: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/search", json=question)
    require(answer.status_code == 200, f"a search for {question} answered {answer.status_code}: {answer.text}")
    found: list[dict[str, Any]] = answer.json()["hits"]
    return found


def check_hits(found: list[dict[str, Any]]) -> None:
    """Each hit's text must be that of the version that its metadata names."""
    for hit in found:
        whole = text_of(hit["document_id"], hit["metadata"]["version"])
        require(hit["text"] == whole[hit["start"] : hit["end"]], f"a hit is torn: {hit}")
