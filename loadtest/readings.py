"""What it saves to keep the ids of chunks: `python -m loadtest.readings`. Embedded models, chunks of fairy tales.

Each search loads fifty chunks and pairs them with a question from their texts, and fifty others from their kept ids:
compare rows of one run, not runs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeVar

import apsw
import numpy as np

from app.stages.chunk import Chunker
from app.stores import collections, documents, jobs
from app.stores.rows import rows
from app.stores.sqlite import Database
from app.types import Chunk, ChunkIds, Document, Recipe
from loadtest.passages import passages, questions
from models.catalog import open_encoder, open_reranker
from models.types import ModelOptions, Reranker, Tokens

T = TypeVar("T")

CANDIDATES = 50
QUERY_RESERVE = 128
MEASURED = 20
"""Of so many searches one is scored as well, and of so many chunks one is embedded."""

SIZES = (
    "SELECT avg(octet_length(r.ids)), avg(octet_length(c.text)), avg(c.tokens)"
    " FROM readings r JOIN chunks c ON c.number = r.chunk"
)


class Clock:
    """What each piece of work took, in milliseconds."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def time(self, what: str, work: Callable[[], T]) -> T:
        began = perf_counter()
        result = work()
        self.times.setdefault(what, []).append(1000 * (perf_counter() - began))
        return result

    def median(self, what: str) -> float:
        return statistics.median(self.times[what])


def fill(db: apsw.Connection, reranker: Reranker, amount: int, clock: Clock) -> None:
    encoder = open_encoder("embedded")
    chunker = Chunker(Recipe(), encoder, reranker, QUERY_RESERVE)

    def split(document: Document) -> Sequence[Chunk]:
        chunks = clock.time("split", lambda: chunker.split(document))
        if len(clock.times["split"]) % MEASURED == 0:
            clock.time("embed", partial(encoder.encode, encoder.tokenize([chunk.text for chunk in chunks], "document")))
        clock.time("read", lambda: reranker.read([chunk.text for chunk in chunks]))
        return chunks

    collection = collections.insert(db, "tales", "embedded", "embedded", Recipe(), 384, "", "english")
    job, _ = jobs.begin(db, collection.number)
    for passage in passages(amount):
        documents.put(db, collection.number, job, Document(passage.id, passage.text), split)
    db.execute("UPDATE documents SET state = 'live'")


def search(
    db: apsw.Connection, reranker: Reranker, query: str, chunks: ChunkIds, others: ChunkIds, clock: Clock
) -> list[Tokens]:
    """Both ways, of different chunks, since what is loaded twice is in memory the second time; both must come to the
    same."""

    def of_texts(chunks: ChunkIds) -> list[Tokens]:
        return reranker.tokenize(query, [found.reads for found in documents.load(db, 1, chunks)])

    def of_ids() -> list[Tokens]:
        found = documents.load(db, 1, chunks, reranker.tokenisation)
        return reranker.pair(query, [each.ids for each in found if each.ids is not None])

    clock.time("of texts", lambda: of_texts(others))
    kept = clock.time("of ids", of_ids)
    assert [pair.ids.tolist() for pair in of_texts(chunks)] == [pair.ids.tolist() for pair in kept]
    return kept


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0, help="0 takes every core")
    given = parser.parse_args()
    reranker, clock = open_reranker("embedded", ModelOptions(threads=given.threads)), Clock()
    with TemporaryDirectory() as folder:
        database = Database(Path(folder) / "winnow.db")
        await database.write(lambda db: fill(db, reranker, given.chunks, clock))
        await database.read(lambda db: ask(db, reranker, given.searches, clock))
        sizes = await database.read(lambda db: rows(db, SIZES)[0])
        database.close()
    report(clock, *sizes)


def ask(db: apsw.Connection, reranker: Reranker, searches: int, clock: Clock) -> None:
    numbers, chance = [number for (number,) in rows(db, "SELECT number FROM chunks")], random.Random(1)
    for number, query in zip(range(searches), questions(), strict=False):
        chunks, others = (np.array(chance.sample(numbers, CANDIDATES), np.int64) for _ in range(2))
        pairs = search(db, reranker, query, chunks, others, clock)
        if number % MEASURED == 0:
            clock.time("score", partial(reranker.score, pairs))


def report(clock: Clock, ids: float, text: float, tokens: float) -> None:
    texts, kept, score = clock.median("of texts"), clock.median("of ids"), clock.median("score")
    split, read, embed = (clock.median(what) for what in ("split", "read", "embed"))
    print(f"{CANDIDATES} chunks of {tokens:.0f} tokens, loaded and paired with a question:")
    print(f"  from their texts {texts:.2f} ms, {texts / score:.1%} of scoring them ({score:.0f} ms)")
    print(f"  from kept ids    {kept:.2f} ms, {kept / texts:.1%} of the row above")
    print(f"kept ids take {ids:.0f} bytes a chunk, {ids / text:.0%} of its text ({text:.0f} bytes)")
    shares = f"{read / split:.0%} of splitting it, {read / embed:.1%} of embedding it"
    print(f"at ingest they take {read:.2f} ms a chunk, {shares}")


if __name__ == "__main__":
    asyncio.run(main())
