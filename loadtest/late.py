"""What it takes to compare token by token: `python -m loadtest.late`. Embedded models, chunks of fairy tales.

Each search loads candidates without vectors of tokens, as many others with them, and compares those with a question:
compare rows of one run, not runs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import numpy as np

from app.stages.chunk import Chunker
from app.stages.compare import compare
from app.stores import collections, documents, jobs, log
from app.stores.rows import rows
from app.stores.sqlite import Database
from app.types import ChunkIds, Document, Recipe
from loadtest.passages import passages, questions
from loadtest.readings import MEASURED, QUERY_RESERVE, Clock
from models.catalog import open_encoder, open_reranker
from models.types import BiEncoder, ModelOptions, Reranker, TokenQuery

CANDIDATES = (50, 200, 1000)

SIZES = (
    "SELECT avg(octet_length(t.numbers)), avg(c.tokens) FROM token_vectors t JOIN chunks c ON c.number = t.chunk",
    "SELECT sum(pgsize) / (SELECT count(*) FROM token_vectors) FROM dbstat WHERE name = 'token_vectors'",
)


def fill(db: apsw.Connection, encoder: BiEncoder, reranker: Reranker, amount: int, clock: Clock) -> None:
    assert encoder.late is not None
    chunker = Chunker(Recipe(), encoder, reranker, QUERY_RESERVE)
    collection = collections.insert(db, "tales", "embedded", "embedded", Recipe(), 384, "", "english")
    job, _ = jobs.begin(db, collection.number)
    for number, passage in enumerate(passages(amount)):
        documents.put(db, collection.number, job, Document(passage.id, passage.text), chunker.split)
        if number % MEASURED == 0:
            clock.time("write", partial(_embed, db, collection.number, encoder, clock))
    _embed(db, collection.number, encoder, clock)


def _embed(db: apsw.Connection, collection: int, encoder: BiEncoder, clock: Clock) -> None:
    """What waits, as an ingest does; both ways in turn, so that they can be compared."""
    waiting = log.waiting(db, collection, MEASURED)
    tokens = encoder.tokenize([text for version in waiting for text in version.texts], "document")
    clock.time("vectors", lambda: encoder.encode(tokens))
    wholes = clock.time("with tokens", lambda: encoder.encode_whole(tokens))
    for version in waiting:
        own, wholes = wholes[: len(version.chunks)], wholes[len(version.chunks) :]
        vectors, numbers = np.stack([each.vector for each in own]), [each.tokens for each in own]
        log.publish(db, collection, version, vectors, tokens=numbers)


def search(
    db: apsw.Connection, encoder: BiEncoder, query: str, chunks: ChunkIds, others: ChunkIds, clock: Clock
) -> None:
    """Of chunks with their tokens, and of as many others without: what is loaded twice is in memory the second time."""
    assert encoder.late is not None
    amount, late = len(chunks), encoder.late
    clock.time(f"load {amount}", lambda: documents.load(db, 1, others))
    found = clock.time(f"load whole {amount}", lambda: documents.load(db, 1, chunks, tokens=True))
    (seen,) = encoder.tokenize([query], "query")
    (whole,) = encoder.encode_whole([seen])
    asked = TokenQuery(whole.tokens, encoder.late.weights(seen.ids[encoder.inside(seen)]))
    clock.time(f"compare {amount}", lambda: compare(asked, [each.numbers for each in found], late))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0, help="0 takes every core")
    given = parser.parse_args()
    options, clock = ModelOptions(threads=given.threads), Clock()
    encoder, reranker = open_encoder("embedded", options), open_reranker("embedded", options)
    with TemporaryDirectory() as folder:
        database = Database(Path(folder) / "winnow.db")
        await database.write(lambda db: fill(db, encoder, reranker, given.chunks, clock))
        await database.read(lambda db: ask(db, encoder, given.searches, clock))
        (held, tokens), (disk,) = await database.read(lambda db: [rows(db, sql)[0] for sql in SIZES])
        database.close()
    report(clock, held, tokens, disk)


def ask(db: apsw.Connection, encoder: BiEncoder, searches: int, clock: Clock) -> None:
    numbers, chance = [number for (number,) in rows(db, "SELECT number FROM chunks")], random.Random(1)
    for _, query in zip(range(searches), questions(), strict=False):
        for amount in CANDIDATES:
            chunks, others = (np.array(chance.sample(numbers, amount), np.int64) for _ in range(2))
            search(db, encoder, query, chunks, others, clock)


def report(clock: Clock, held: float, tokens: float, disk: float) -> None:
    print(f"a chunk of {tokens:.0f} tokens keeps {held:,.0f} bytes of them, {disk:,.0f} with what SQLite adds")
    vectors, whole = clock.median("vectors"), clock.median("with tokens")
    print(f"to embed {MEASURED} chunks takes {vectors:.1f} ms, with tokens {whole:.1f} ms ({whole / vectors - 1:+.1%})")
    for amount in CANDIDATES:
        plain, more, compared = (clock.median(f"{what} {amount}") for what in ("load", "load whole", "compare"))
        print(
            f"{amount} candidates: loaded in {plain:.1f} ms, with tokens {more:.1f} ms, compared in {compared:.1f} ms"
        )


if __name__ == "__main__":
    asyncio.run(main())
