"""Do searches suffer while documents stream in, and is anything lost, torn or answered with an error?

    python -m loadtest.searching_while_ingesting --clients 200 --documents 20000

Two phases, the same clients in both: searches alone, then searches while documents stream in as NDJSON. Prints both
phases' latencies and their ratio, and checks each hit against the document that it came from. It starts a service with
default settings, but for the memory of questions, or asks a running one (`--url`, with the key in WINNOW_API_KEY), in a
collection that it makes and drops at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import httpx
import numpy as np

from app.terminal.client import Failure, Refused, Target, authorization, connect
from loadtest.lineup import LINEUP, interpreter
from loadtest.service import free_port, running

COLLECTION = "loadtest"
WORDS = 4000
BACKOFF_SECONDS = 0.5

ASKED_FOR, WORDS_OF_ONE = 500, 12
"""Documents that are looked for by their first words in the end, to see that they are found."""


@dataclass
class Phase:
    """What the clients of one phase saw."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    torn: int = 0
    lasted: float = 0.0
    """Until the last answer had come: all of them count."""

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.lasted

    def row(self, name: str) -> str:
        p50, p95, p99 = np.percentile(self.seconds, [50, 95, 99]) * 1000
        other = sum(amount for status, amount in self.statuses.items() if status not in (200, 429))
        times = f"{self.rate:.1f} | {p50:.0f} | {p95:.0f} | {p99:.0f}"
        return f"| {name} | {len(self.seconds)} | {times} | {self.statuses[429]} | {other} | {self.torn} |"


class Corpus:
    """Documents that can be made again from their number alone: so every hit can be checked."""

    def __init__(self, words: int) -> None:
        chance = random.Random(1)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self._vocabulary = ["".join(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(WORDS)]
        self._words = words

    def text(self, number: int) -> str:
        chance = random.Random(number)
        return " ".join(chance.choices(self._vocabulary, k=chance.randint(self._words // 2, self._words * 3 // 2)))

    def query(self, chance: random.Random) -> str:
        return " ".join(chance.choices(self._vocabulary, k=8))

    async def lines(self, start: int, end: int) -> AsyncIterator[bytes]:
        for number in range(start, end):
            yield json.dumps({"id": str(number), "text": self.text(number)}).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Asking:
    """What all clients do."""

    client: httpx.AsyncClient
    corpus: Corpus
    clients: int
    candidates: int | str

    def body(self, chance: random.Random) -> dict[str, object]:
        query = self.corpus.query(chance)
        return {"query": query, "collection": COLLECTION, "top_k": 10, "candidates": self.candidates}


async def search_until(stop: asyncio.Event, asking: Asking, phase: Phase, seed: int) -> None:
    """One client: asks, checks the answer, asks again; backs off when told to."""
    chance = random.Random(seed)
    while not stop.is_set():
        body = asking.body(chance)
        began = perf_counter()
        answer = await asking.client.post("/search", json=body)
        phase.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            phase.seconds.append(perf_counter() - began)
            phase.torn += sum(is_torn(hit, asking.corpus) for hit in answer.json()["hits"])
        else:
            await asyncio.sleep(float(answer.headers.get("retry-after", BACKOFF_SECONDS)) * chance.uniform(0.5, 1))


def is_torn(hit: dict[str, str | int], corpus: Corpus) -> bool:
    text = corpus.text(int(hit["document_id"]))
    return text[int(hit["start"]) : int(hit["end"])] != hit["text"]


async def run_phase(asking: Asking, until: Awaitable[object]) -> Phase:
    """Nobody asks afterwards; all that were asked are waited for, and count with the time that this takes."""
    phase, stop, began = Phase(), asyncio.Event(), perf_counter()
    searches = [asyncio.create_task(search_until(stop, asking, phase, seed)) for seed in range(asking.clients)]
    await until
    stop.set()
    await asyncio.gather(*searches)
    phase.lasted = perf_counter() - began
    return phase


async def ingest(client: httpx.AsyncClient, corpus: Corpus, start: int, end: int) -> float:
    """Stream documents in and wait until all can be found; returns the seconds that this took."""
    began = perf_counter()
    where = {"collection": COLLECTION, "wait": "false"}
    headers = {"content-type": "application/x-ndjson"}
    answer = await client.post("/ingest", params=where, headers=headers, content=corpus.lines(start, end))
    assert answer.status_code == 202, answer.text
    refused = [line for line in map(json.loads, answer.text.splitlines()) if "error" in line]
    assert not refused, refused[:3]
    while (await client.get(f"/collections/{COLLECTION}")).json()["pending"]:  # noqa: ASYNC110  # another process
        await asyncio.sleep(1)
    return perf_counter() - began


async def count_lost(client: httpx.AsyncClient, corpus: Corpus, total: int) -> int:
    """By how many there are in the truth and in each index, and of some by asking for their words."""
    held = (await client.get(f"/collections/{COLLECTION}")).json()
    missing = abs(total - int(held["documents"]))
    missing += sum(abs(int(held["chunks"]) - int(held[index])) for index in ("index_chunks", "lexical_chunks"))
    for number in random.Random(1).sample(range(total), min(ASKED_FOR, total)):
        missing += not await is_found(client, corpus, number)
    return missing


async def is_found(client: httpx.AsyncClient, corpus: Corpus, number: int) -> bool:
    """Whether a search by a document's own words finds it."""
    words = " ".join(corpus.text(number).split()[:WORDS_OF_ONE])
    body = {"query": words, "collection": COLLECTION, "mode": "lexical", "rerank": False, "top_k": 10}
    answer = (await client.post("/search", json=body)).raise_for_status().json()
    return any(hit["document_id"] == str(number) for hit in answer["hits"])


async def make_collection(target: Target) -> None:
    """Anew, of a service that can be asked; of another one a Failure says why it can't."""
    async with connect(target) as service:
        await service.readiness()
        with suppress(Refused):  # there is none to drop, or creating it says the same
            await service.ask("DELETE", f"/collections/{COLLECTION}")
        await service.ask("POST", "/collections", json={"name": COLLECTION})


async def measure(target: Target, given: argparse.Namespace) -> None:
    corpus = Corpus(given.words)
    url, limits = target.address() or "", httpx.Limits(max_connections=given.clients + 10)
    await make_collection(target)
    async with httpx.AsyncClient(base_url=url, headers=authorization(), timeout=None, limits=limits) as client:
        total = given.before + given.documents
        asking = Asking(client, corpus, given.clients, given.candidates)
        await ingest(client, corpus, 0, given.before)
        alone = await run_phase(asking, asyncio.ensure_future(asyncio.sleep(given.seconds)))
        if not alone.seconds:
            raise Failure(f"No search was answered; by status: {dict(alone.statuses)}.")
        streaming = asyncio.ensure_future(ingest(client, corpus, given.before, total))
        during = await run_phase(asking, streaming)
        took = await streaming
        lost = await count_lost(client, corpus, total)
        await client.delete(f"/collections/{COLLECTION}")
    report(given, alone, during, given.documents / took, lost)


def report(given: argparse.Namespace, alone: Phase, during: Phase, rate: float, lost: int) -> None:
    ratio = np.percentile(during.seconds, 99) / np.percentile(alone.seconds, 99)
    print(f"{given.clients} clients, candidates: {given.candidates}, about {given.words} words a document\n")
    print("| phase | searches | per s | p50 ms | p95 ms | p99 ms | 429 | other errors | torn hits |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(alone.row(f"searches alone, {given.before} documents"))
    print(during.row(f"while {given.documents} documents stream in"))
    print(f"\np99 while ingesting / p99 alone: {ratio:.2f}. Ingest: {rate:.0f} documents/s. Lost: {lost}.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a service that runs already; by default one is started")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument(
        "--documents", type=int, default=20_000, help="documents that stream in during the second phase"
    )
    parser.add_argument("--before", type=int, default=2000, help="documents there in the first phase")
    parser.add_argument("--words", type=int, default=40, help="mean words per document")
    parser.add_argument(
        "--candidates", type=lambda text: int(text) if text.isdecimal() else text, default="auto", help="to rerank"
    )
    parser.add_argument("--seconds", type=float, default=60, help="length of the first phase")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.url:
        try:
            asyncio.run(measure(Target(given.url), given))
        except Failure as failure:
            sys.exit(str(failure))
        except httpx.TransportError as error:
            sys.exit(f"{given.url} went away while it was asked: {error or type(error).__name__}.")
        return
    peer, port = LINEUP["winnow-default"], free_port()
    with TemporaryDirectory() as folder:
        commands = peer.commands(interpreter(peer, Path), Path(folder), port)
        with running(commands, Path(folder), Path(folder) / "winnow.log"):
            asyncio.run(measure(Target(f"http://127.0.0.1:{port}"), given))


if __name__ == "__main__":
    main()
