"""What an index of sparse vectors takes and costs: `python loadtest/sparse.py --chunks 100000`. All by CPU time."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import apsw
import numpy as np

from app.stores import collections
from app.stores.log import living_expansions
from app.stores.rows import sparse_bytes
from app.stores.sparse import InvertedIndex
from app.stores.sqlite import Database
from app.types import Expansion, Recipe
from models.types import SparseVector

BLOCK = 1024
VOCABULARY = 30_522
SKEW = 0.75
"""How fast terms get rarer, i^-0.75: two of a document's 120 terms are then in a query of 32, seven in one of 130."""
TEXTS = 20_000
"""Different vectors; more chunks have the same ones again."""
QUERY_TERMS = (6, 32, 130)
"""Words that are looked up; a short query with what it could have said; a long one."""
ROUND = 64


def draw(rng: np.random.Generator, terms: int, amount: int) -> list[SparseVector]:
    """Vectors of so many terms or a few less."""
    shares = np.cumsum(np.arange(1, VOCABULARY + 1) ** -SKEW)
    drawn = (np.unique(np.searchsorted(shares / shares[-1], rng.random(terms))) for _ in range(amount))
    return [SparseVector(each.astype(np.int32), rng.gamma(1.2, 0.5, len(each)).astype(np.float32)) for each in drawn]


def blocks(texts: Sequence[SparseVector], chunks: int) -> Iterator[list[Expansion]]:
    for start in range(0, chunks, BLOCK):
        numbers = range(start, min(start + BLOCK, chunks))
        yield [Expansion(1, number + 1, texts[number % len(texts)]) for number in numbers]


def fill(index: InvertedIndex, steps: Iterable[list[Expansion]]) -> None:
    for step in steps:
        index.apply(step)


def seconds(work: Callable[[], object]) -> float:
    began = process_time()
    work()
    return process_time() - began


def each_ms(work: Callable[[SparseVector], object], queries: Sequence[SparseVector]) -> float:
    """Milliseconds of CPU for one query."""
    return 1000 * seconds(lambda: [work(query) for query in queries]) / len(queries)


def rebuilt(texts: Sequence[SparseVector], chunks: int) -> float:
    """Seconds from a database to an index that is whole, as at a start."""
    with TemporaryDirectory() as folder:
        database = Database(Path(folder) / "winnow.db")
        asyncio.run(database.write(lambda db: stored(db, texts, chunks)))

        def read(db: apsw.Connection) -> None:
            fill(InvertedIndex(), living_expansions(db, 1, BLOCK))

        taken = seconds(lambda: database.read_here(read))
        database.close()
        return taken


def stored(db: apsw.Connection, texts: Sequence[SparseVector], chunks: int) -> None:
    """A document of so many chunks: their texts and their vectors."""
    collections.insert(db, "default", "", "", Recipe(), 1, "", "english", "made up")
    db.execute(
        "INSERT INTO documents (collection, id, state, content, title, text, metadata, created_at, chunks, bytes)"
        " VALUES (1, 'a', 'live', x'', '', '', '{}', '', ?, 0)",
        (chunks,),
    )
    raw, text = [sparse_bytes(each) for each in texts], "a chunk of text " * 60
    for number in range(chunks):
        db.execute('INSERT INTO chunks (document, start, "end", tokens, text) VALUES (1, 0, 0, 0, ?)', (text,))
        db.execute("INSERT INTO sparse_vectors VALUES (?, ?)", (number + 1, raw[number % len(raw)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--terms", type=int, default=126, help="drawn for a chunk; a few come up twice")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    texts = draw(rng, asked.terms, TEXTS)
    index = InvertedIndex()
    built = seconds(lambda: fill(index, blocks(texts, asked.chunks)))
    print(f"{asked.chunks:,} chunks of {np.mean([len(each) for each in texts]):.0f} terms: {index.nbytes / 1e6:.0f} MB")
    print(f"built in {built:.1f} s; rebuilt from SQLite in {rebuilt(texts, asked.chunks):.1f} s")
    for terms in QUERY_TERMS:
        queries = draw(rng, terms, asked.queries)
        print(f"search by {terms} terms: {each_ms(lambda query: index.search(query, 50), queries):.1f} ms")
    queries = draw(rng, QUERY_TERMS[1], asked.queries)
    for share in (0.001, 0.1, 0.5):
        allowed = np.sort(rng.choice(asked.chunks, int(share * asked.chunks), replace=False) + 1)
        taken = each_ms(lambda query, among=allowed: index.search(query, 50, among), queries)  # type: ignore[misc]
        print(f"search by {QUERY_TERMS[1]} terms among {len(allowed):,}: {taken:.1f} ms")
    best = index.search(queries[0], 50).chunks
    print(f"scores of 50 chunks: {each_ms(lambda query: index.scores(query, best), queries):.1f} ms")
    later = range(asked.chunks, asked.chunks + 50 * ROUND, ROUND)
    rounds = [[Expansion(1, first + n + 1, texts[n]) for n in range(ROUND)] for first in later]
    print(f"{ROUND} more chunks: {1000 * seconds(lambda: fill(index, rounds)) / len(rounds):.1f} ms")


if __name__ == "__main__":
    main()
