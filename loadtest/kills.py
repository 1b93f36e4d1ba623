"""Is anything lost when the process is killed? `python -m loadtest.kills --moments 200 --seed 7`, some ten minutes.

Writers create, replace and delete, searchers look at every hit, and at a random moment the process gets SIGKILL; now
and then once more while it starts. After each start:

    every acknowledged write is there in its version, every acknowledged deletion stays, no request is there by half
    every acknowledged job ends well
    each index holds exactly the living chunks, and finds documents by words that nothing else has
    an exact search ranks as SQLite's vectors do
    each chunk has the numbers of its own tokens
    the service's own check finds nothing: SQLite's file is sound, and so are the graph and the other indexes

The service is started by the script, with fake models. Where a promise is broken it says which, keeps the data, and
ends with 1. What is done depends on the seed; how far it has come when the process is killed does not.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any

import httpx

from loadtest import truth
from loadtest.ledger import (
    BrokenPromise,
    Ledger,
    Operator,
    Searcher,
    Writer,
    check_hits,
    hits,
    require,
    telling,
    text_of,
)
from loadtest.process import Process
from loadtest.truth import Truth
from models.fake import FakeEncoder

DIMENSIONS = 512
SETTINGS: dict[str, object] = {
    "ENCODER": f"fake:late:{DIMENSIONS}",
    "SPARSE": "fake:lookup",  # a query's words alone: by the first letters too, a longer document could come first
    "SNAPSHOT_CHANGES": 40,
    "SNAPSHOT_SECONDS": 0.3,
    "EXACT_BELOW": 0,  # the graph is asked, however small
    "MAX_TOP_K": 100_000,
    "MAX_CANDIDATES": 100_000,
}
SPARING: dict[str, object] = {"INDEX_DIMENSIONS": DIMENSIONS // 4, "INDEX_PRECISION": "int8"}
WRITERS, SEARCHERS = 3, 2
SHORTEST, LONGEST = 0.02, 0.8
"""Seconds of traffic before the process is killed."""
SWITCHING = 2.5
"""Likewise where models are switched, which waits until all has been embedded twice."""
STARTING = 0.1
"""How often it is killed once more while it starts."""
INDEXES = ("index_chunks", "lexical_chunks", "sparse_chunks")
SETTLING = 60.0
QUERIES, SAMPLE, TOP_K = 3, 8, 10
UNCOMPARED: dict[str, object] = {"rerank": False, "late": False}
"""What an index finds, in its own order."""
FEW = 5
"""A telling word must find its document among so many: some other may share its term, of which a fake has 2**20."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A service with its data folder, and the ledgers of those who write to it."""

    service: Process
    data_dir: Path
    ledgers: list[Ledger]
    switching: bool = False
    """Whether somebody has a standby and switches to it and back all the time."""

    @property
    def client(self) -> httpx.Client:
        return self.service.client

    def traffic(self, chance: random.Random, end: Callable[[], object]) -> int:
        """Writers and searchers, until the process is ended under them; returns how often models were switched."""
        others = [random.Random(chance.random()) for _ in range(WRITERS + SEARCHERS)]
        runs = [Writer(self.client, ledger, others.pop()).run for ledger in self.ledgers]
        runs += [Searcher(self.client, self.ledgers, other).run for other in others]
        operator = Operator(self.client)
        runs += [operator.run] if self.switching else []
        with ThreadPoolExecutor(len(runs)) as threads:
            under_way = [threads.submit(run) for run in runs]
            sleep(chance.uniform(SHORTEST, SWITCHING if self.switching else LONGEST))
            end()
            for each in under_way:
                each.result()
        return operator.switches

    def restart(self, chance: random.Random) -> None:
        self.service.start()
        if chance.random() < STARTING:
            sleep(chance.uniform(0, 3 * LONGEST))
            self.service.kill()
            self.service.start()
        self.await_settled()

    def await_settled(self) -> None:
        """Wait until nothing waits any more, and the indexes hold what the truth does: jobs resume by themselves."""
        self.service.await_ready()
        deadline = monotonic() + SETTLING
        while not all(map(_is_settled, held := self.client.get("/collections").json()["collections"])):
            require(monotonic() < deadline, f"what waited was not taken up: {held}")
            sleep(0.02)

    def check(self, chance: random.Random) -> None:
        stored = truth.read(self.data_dir)
        for ledger in self.ledgers:
            ledger.settle(stored.versions())
        self._check_documents(stored)
        if self.switching:
            self._check_documents(truth.read(self.data_dir, "default~standby"))
        self._check_jobs()
        self._check_soundness()
        self._check_indexes(stored)
        check_tokens(stored)
        for _ in range(QUERIES):
            self._check_ranking(stored, chance)
        for ledger in self.ledgers:
            for document in chance.sample(sorted(ledger.held), min(SAMPLE, len(ledger.held))):
                self.check_found(document, ledger.held[document])
            for document in chance.sample(sorted(ledger.gone), min(SAMPLE, len(ledger.gone))):
                require(self.client.get(f"/documents/{document}").status_code == 404, f"{document} is back")

    def check_found(self, document: str, version: int) -> None:
        """By its telling word, in every index, whole, and in this version."""
        question = {"query": telling(document, version), "top_k": FEW, **UNCOMPARED, "exact": True}
        for mode in ("dense", "lexical", "sparse"):
            found = hits(self.client, {**question, "mode": mode})
            check_hits(found)
            at = [(hit["document_id"], hit["metadata"]["version"]) for hit in found]
            require((document, version) in at, f"{document} in version {version} is not found by {mode}: {at}")

    def _check_documents(self, stored: Truth) -> None:
        promised = {document: version for ledger in self.ledgers for document, version in ledger.held.items()}
        due = {document: ("live", text_of(document, version), version) for document, version in promised.items()}
        wrong = sorted({document for document, _ in due.items() ^ stored.documents.items()})
        require(not wrong, f"acknowledged and stored differ in {len(wrong)} documents: {wrong[:5]}")

    def _check_jobs(self) -> None:
        for ledger in self.ledgers:
            for job in ledger.jobs:
                state = self.client.get(f"/jobs/{job}").json()
                require(state.get("state") == "done", f"an acknowledged job is not done: {state}")
            ledger.jobs = []

    def _check_soundness(self) -> None:
        self.client.post("/check", json={}).raise_for_status()
        deadline = monotonic() + SETTLING
        while (report := self.client.get("/check").json())["state"] == "running":
            require(monotonic() < deadline, f"a check does not end: {report}")
            sleep(0.02)
        require(report["state"] == "done" and not report["findings"], f"a check found what is wrong: {report}")

    def _check_indexes(self, stored: Truth) -> None:
        """The words that all texts share bring out all that an index has."""
        question: dict[str, Any] = {"query": "words", **UNCOMPARED, "include": []}
        living = set(stored.chunks.tolist())
        question |= {"top_k": len(living) + 10, "candidates": len(living) + 10}
        for mode in ("dense", "lexical", "sparse"):
            found = {int(hit["id"]) for hit in hits(self.client, {**question, "mode": mode, "exact": True})}
            require(found == living, f"{mode} finds {len(found)} chunks of {len(living)}: {sorted(found ^ living)[:5]}")

    def _check_ranking(self, stored: Truth, chance: random.Random) -> None:
        text, encoder = _question(self.ledgers, chance), FakeEncoder(DIMENSIONS)
        question = {"query": text, "top_k": TOP_K, "mode": "dense", "exact": True, **UNCOMPARED}
        (vector,) = encoder.encode(encoder.tokenize([text], "query"))
        deviation = stored.deviation(vector, TOP_K, hits(self.client, question))
        require(deviation is None, f"exact search for '{text}' differs from SQLite: {deviation}")


def check_tokens(stored: Truth) -> None:
    """They are those of the text that it has now, whatever it replaced."""
    encoder = FakeEncoder(DIMENSIONS, late=True)
    due = encoder.encode_whole(encoder.tokenize(stored.texts, "document"))
    rows = zip(stored.chunks.tolist(), due, stored.tokens, strict=True)
    wrong = [chunk for chunk, made, kept in rows if kept != made.tokens.tobytes()]
    require(not wrong, f"{len(wrong)} chunks have not the numbers of their tokens: {wrong[:5]}")


def run(
    data_dir: Path,
    moments: int,
    seed: int,
    tell: Callable[[str], None],
    settings: Mapping[str, object] = MappingProxyType({}),
    *,
    switching: bool = False,
) -> int:
    """Kill it so many times; returns how many documents there are at the end, each of them found."""
    ledgers = [Ledger(name) for name in "abcdefgh"[:WRITERS]]
    with Process(data_dir, **(SETTINGS | dict(settings))) as service:
        trial, began, switches = Trial(service, data_dir, ledgers, switching), monotonic(), 0
        service.await_ready()
        if switching:
            service.client.post("/collections/default/standby", json={"recipe": {"overlap_tokens": 16}})
        for moment in range(1, moments + 1):
            chance = random.Random(f"{seed} {moment}")
            switches += trial.traffic(chance, service.kill)
            trial.restart(chance)
            trial.check(chance)
            told = f"{moment} of {moments}: {_told(ledgers)}, {monotonic() - began:.0f} s"
            tell(f"{told}, {switches} switches" if switching else told)
        require(not switching or switches > moments / 4, f"models were switched {switches} times: that shows nothing")
        for ledger in ledgers:
            for document, version in ledger.held.items():
                trial.check_found(document, version)
        return sum(len(ledger.held) for ledger in ledgers)


def main() -> int:
    given = _arguments()
    data_dir = given.data_dir or Path(mkdtemp(prefix="winnow-kills-"))
    try:
        kept = SPARING if given.sparing else {}
        tell = partial(print, flush=True)
        held = run(data_dir, given.moments, given.seed, tell, kept, switching=given.switching)
    except (BrokenPromise, AssertionError, httpx.HTTPError) as error:
        print(f"BROKEN with --seed {given.seed}: {error!r}\nThe data is in {data_dir}.", file=sys.stderr)
        return 1
    print(f"{given.moments} kills, nothing lost, nothing torn; {held} documents at the end, each found in every index.")
    return 0


def _told(ledgers: list[Ledger]) -> str:
    return f"{sum(len(each.held) for each in ledgers)} documents there, {sum(len(each.gone) for each in ledgers)} gone"


def _is_settled(held: dict[str, Any]) -> bool:
    """A collection, and its standby if it has one."""
    standby = held["standby"]
    waiting = held["pending"] or (standby and standby["behind"] + standby["pending"])
    return not waiting and {held[index] for index in INDEXES} == {held["chunks"]}


def _question(ledgers: list[Ledger], chance: random.Random) -> str:
    """Words of some documents that are there, so that the best few stand out."""
    held = sorted(item for ledger in ledgers for item in ledger.held.items())
    return " ".join(["words", *(telling(*each) for each in chance.sample(held, min(3, len(held))))])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=200, help="how many times the process is killed")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sparing", action="store_true", help=f"with indexes that keep less: {SPARING}")
    parser.add_argument("--switching", action="store_true", help="with a standby, switched to and back all the time")
    parser.add_argument("--data-dir", type=Path, help="by default a new folder among the temporary ones")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
