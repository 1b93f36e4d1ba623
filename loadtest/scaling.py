"""What grows with the corpus: `python -m loadtest.scaling --sizes 10000 100000`. Writes a table and a page of plots.

One service is filled step by step. At each size: how fast the last documents came in, what a search takes in each
of its modes, how much memory the service holds, and what the graph finds; at the end, how soon it is ready again. Its
models are fakes of 384 dimensions that cost next to nothing, so that what is measured is everything else: indexes,
truth, and what leads to them. The texts have topics, so that their vectors lie in clusters as real ones do. Then the
embedded reranker alone, by the length of its pairs and by how many it is given at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import httpx
import numpy as np

from app.quality import plots
from loadtest import sheet
from loadtest.lineup import LINEUP, interpreter
from loadtest.machine import ROOT, Meter, folder_bytes, this_machine
from loadtest.service import free_port, running
from loadtest.topics import Topics
from models.catalog import open_reranker
from models.types import Reranker, Tokens

WORDS = 40
"""Of a document, in the mean; none is longer than a chunk."""
PARTS = 10
SEARCHES = 200
WARM_UP = 20
DIMENSIONS = 384
MODELS = ("--encoder", f"fake:{DIMENSIONS}", "--reranker", "fake")
ASKED: Mapping[str, Mapping[str, object]] = {
    "by vectors": {"mode": "dense"},
    "by words": {"mode": "lexical"},
    "hybrid": {},
    "hybrid, a tenth allowed": {"filter": {"part": 3}},
    "hybrid, exact": {"exact": True},
}
"""Ways to search, none of them reranked."""
LENGTHS, AT_ONCE = (32, 64, 128, 256, 512), (1, 4, 16, 64)


@dataclass(frozen=True, slots=True)
class Step:
    """One size."""

    chunks: int
    rate: float
    """Documents a second on the way there."""
    resident: float
    """Bytes."""
    disk: int
    milliseconds: Mapping[str, tuple[float, float, float]]
    """p5, p50 and p95 of each way to search."""
    recall: float
    """The share of the ten nearest vectors that the graph finds."""


async def grow(sizes: Sequence[int], port: int, meter: Meter, data: Path) -> list[Step]:
    corpus, steps, held = Topics(WORDS), list[Step](), 0
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None) as client:
        for size in sizes:
            began = perf_counter()
            await _fill(client, corpus, held, size)
            rate, held = (size - held) / (perf_counter() - began), size
            searched = {name: await _search(client, corpus, size, fields) for name, fields in ASKED.items()}
            recall = await _recall(client, corpus, size)
            steps.append(Step(size, rate, meter.resident_bytes(), folder_bytes(data), searched, recall))
            print(f"| {' | '.join(_cells(steps[-1]))} |", flush=True)
    return steps


async def _fill(client: httpx.AsyncClient, corpus: Topics, start: int, end: int) -> None:
    """Until all can be found."""
    headers = {"content-type": "application/x-ndjson"}
    told = _documents(corpus, start, end)
    answer = await client.post("/ingest", params={"wait": "false"}, headers=headers, content=told)
    answer.raise_for_status()
    while (await client.get("/collections/default")).json()["pending"]:  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.2)


async def _documents(corpus: Topics, start: int, end: int) -> AsyncIterator[bytes]:
    for number in range(start, end):
        document = {"id": str(number), "text": corpus.text(number), "metadata": {"part": number % PARTS}}
        yield json.dumps(document).encode() + b"\n"


async def _search(
    client: httpx.AsyncClient, corpus: Topics, size: int, fields: Mapping[str, object]
) -> tuple[float, float, float]:
    chance, seconds = random.Random(7), []
    for number in range(WARM_UP + SEARCHES):
        query, began = corpus.query(size, chance), perf_counter()
        await _found(client, query, fields)
        if number >= WARM_UP:
            seconds.append(perf_counter() - began)
    low, median, high = 1000 * np.percentile(seconds, [5, 50, 95])
    return float(low), float(median), float(high)


async def _recall(client: httpx.AsyncClient, corpus: Topics, size: int) -> float:
    chance, shares = random.Random(11), []
    for _ in range(SEARCHES):
        query = corpus.query(size, chance)
        exact = await _found(client, query, {"mode": "dense", "exact": True})
        shares.append(len(exact & await _found(client, query, {"mode": "dense"})) / len(exact))
    return statistics.mean(shares)


async def _found(client: httpx.AsyncClient, query: str, fields: Mapping[str, object]) -> set[str]:
    answer = await client.post("/search", json={"query": query, "rerank": False, **fields})
    return {hit["id"] for hit in answer.raise_for_status().json()["hits"]}


def rerank_rates() -> dict[int, list[tuple[int, float]]]:
    """Pairs a second of the embedded reranker by their tokens, and for these by how many are given to it at once."""
    reranker = open_reranker("embedded")
    (word,) = reranker.tokenize("river", ["river " * max(LENGTHS)])
    return {length: [(pairs, _rate(reranker, word, length, pairs)) for pairs in AT_ONCE] for length in LENGTHS}


def _rate(reranker: Reranker, longest: Tokens, length: int, pairs: int) -> float:
    batch = [Tokens(longest.ids[:length], longest.types[:length], length)] * pairs
    reranker.score(batch)
    times: list[float] = []
    while len(times) < 3 or sum(times) < 1:
        began = perf_counter()
        reranker.score(batch)
        times.append(perf_counter() - began)
    return pairs / statistics.median(times)


def table(steps: Sequence[Step]) -> str:
    titles = [
        "chunks",
        "documents/s",
        "memory MB",
        "disk MB",
        *(f"{name}, p50 / p95 ms" for name in ASKED),
        "recall@10",
    ]
    lines = [titles, ["---"] * len(titles), *map(_cells, steps)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(step: Step) -> list[str]:
    sizes = [f"{step.chunks:,}", f"{step.rate:.0f}", f"{step.resident / 1e6:.0f}", f"{step.disk / 1e6:.0f}"]
    times = [f"{median:.1f} / {high:.1f}" for _, median, high in step.milliseconds.values()]
    return [*sizes, *times, f"{step.recall:.3f}"]


def rerank_table(rates: Mapping[int, list[tuple[int, float]]]) -> str:
    titles = ["tokens of a pair", *(f"{pairs} at once" for pairs in AT_ONCE)]
    rows = [[str(length), *(f"{rate:.1f}" for _, rate in found)] for length, found in rates.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows])


def page(heading: str, steps: Sequence[Step], rates: Mapping[int, list[tuple[int, float]]]) -> str:
    """All of it as plots, in a file that needs nothing beside it."""
    searches = [
        plots.Line(name, tuple(_point(step.chunks, *step.milliseconds[name]) for step in steps), series)
        for series, name in enumerate(ASKED)
    ]
    memory = [_single("memory", [(step.chunks, step.resident / 1e6) for step in steps])]
    ingest = [_single("documents", [(step.chunks, step.rate) for step in steps])]
    reranked = [
        _single(f"{length} tokens", [(pairs, rate * length) for pairs, rate in found], series)
        for series, (length, found) in enumerate(rates.items())
    ]
    figures = [
        ("Search", plots.curves(searches, "chunks", "ms, p5 to p95", "Milliseconds of a search by chunks", log=True)),
        ("Memory", plots.curves(memory, "chunks", "MB", "Memory of the service by chunks", log=True)),
        ("Ingest", plots.curves(ingest, "chunks", "documents/s", "Documents a second by chunks", log=True)),
        ("Rerank", plots.curves(reranked, "pairs at once", "tokens/s", "Tokens a second by pairs at once", log=True)),
    ]
    return sheet.page("What grows with the corpus", heading, figures)


def _single(name: str, points: Sequence[tuple[float, float]], series: int = 0) -> plots.Line:
    return plots.Line(name, tuple(sheet.point(x, value) for x, value in points), series)


def _point(x: float, low: float, value: float, high: float) -> plots.Point:
    return plots.Point(x, value, low, high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="in rising order")
    parser.add_argument(
        "--compared", type=int, default=DIMENSIONS, help=f"how many of {DIMENSIONS} numbers the graph compares"
    )
    parser.add_argument("--rounded", action="store_true", help="vectors beside the graph as bytes")
    parser.add_argument("--output", type=Path, default=ROOT / "loadtest" / "results" / "scaling", help="a folder")
    given = parser.parse_args()
    machine = this_machine()
    heading = (
        f"{machine.processor}, {machine.cores} cores, commit {machine.commit}, load average {machine.load_average}"
    )
    print(heading, flush=True)
    (steps, ready), rates = filled(given.sizes, given.compared, rounded=given.rounded), rerank_rates()
    started = f"Started again, the service was ready with {steps[-1].chunks:,} chunks after {ready:.1f} seconds."
    given.output.mkdir(parents=True, exist_ok=True)
    report = f"{heading}\n\n{table(steps)}\n\n{started}\n\n{rerank_table(rates)}\n"
    (given.output / "scaling.md").write_text(report)
    (given.output / "scaling.html").write_text(page(heading, steps, rates))
    print(f"\n{report}\nWritten to {given.output}.")


def filled(sizes: Sequence[int], compared: int, *, rounded: bool) -> tuple[list[Step], float]:
    """Every size, and how many seconds the service takes to be ready with the last one when it is started again."""
    peer, port = LINEUP["winnow-all"], free_port()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (command,) = peer.commands(interpreter(peer, Path), folder, port)
        kept = {
            "WINNOW_INDEX_DIMENSIONS": str(compared),
            "WINNOW_INDEX_PRECISION": "int8" if rounded else "float32",
            "WINNOW_FILTER_CACHE_BYTES": "0",  # the filter is the same each time, and would be looked up once
        }
        commands = [replace(command, words=(*command.words, *MODELS), environment={**command.environment, **kept})]
        with running(commands, folder, folder / "log") as service, Meter(service.pids) as meter:
            steps = asyncio.run(grow(sizes, port, meter, folder / "data"))
        with running(commands, folder, folder / "log") as again:
            return steps, again.ready_seconds


if __name__ == "__main__":
    main()
