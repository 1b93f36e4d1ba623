"""Questions to the truth about itself; each answer is a sentence on what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apsw

from app.stores.rows import number, rows

FLOAT_BYTES = 4
NAMED = 20
"""Faults of the file that are named."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query that counts what ought not to be, and what to say of it."""

    sql: str
    told: str


LIVING = "FROM documents d JOIN chunks c ON c.document = d.number"

QUESTIONS = (
    Question(
        "SELECT count(*) FROM documents d WHERE collection = :collection"
        " AND chunks <> (SELECT count(*) FROM chunks WHERE document = d.number)",
        "documents without as many chunks as they ought to have",
    ),
    Question(
        "SELECT count(*) FROM documents WHERE collection = :collection AND state = 'live' AND chunks = 0",
        "searchable documents without a chunk",
    ),
    Question(
        "SELECT count(*) FROM documents d WHERE collection = :collection"
        ' AND (SELECT max("end") FROM chunks WHERE document = d.number) > length(text)',
        "documents shorter than their chunks reach",
    ),
    Question(
        f"SELECT count(*) {LIVING} WHERE d.collection = :collection AND state = 'live'"
        " AND NOT EXISTS (SELECT 1 FROM vectors WHERE chunk = c.number)",
        "searchable chunks without a vector",
    ),
    Question(
        f"SELECT count(*) {LIVING} JOIN vectors v ON v.chunk = c.number"
        f" WHERE d.collection = :collection AND length(vector) <> {FLOAT_BYTES} * :dimensions",
        "chunks with a vector of another length than the collection's",
    ),
    Question(
        f"SELECT count(*) {LIVING} WHERE d.collection = :collection AND state = 'live' AND :sparse"
        " AND NOT EXISTS (SELECT 1 FROM sparse_vectors WHERE chunk = c.number)",
        "searchable chunks without a sparse vector",
    ),
    Question(
        f"SELECT count(*) {LIVING} JOIN collections k ON k.number = d.collection"
        " WHERE d.collection = :collection AND state = 'live' AND k.late <> ''"
        " AND NOT EXISTS (SELECT 1 FROM token_vectors WHERE chunk = c.number)",
        "searchable chunks without vectors of their tokens",
    ),
    Question(
        f"SELECT count(*) {LIVING} JOIN collections k ON k.number = d.collection"
        " WHERE d.collection = :collection AND state = 'live' AND k.tokenisation IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM readings r WHERE r.chunk = c.number AND r.tokenisation = k.tokenisation)",
        "searchable chunks that the reranker's tokenizer has not read, though all are said to have been",
    ),
)


def of_file(db: apsw.Connection) -> Iterator[str]:
    """Of the file as SQLite sees it: pages, indexes, constraints, references."""
    found = [told for (told,) in rows(db, f"PRAGMA integrity_check({NAMED})")]
    if found != ["ok"]:
        yield from (f"the database file is damaged: {told}" for told in found)
        return
    broken: dict[str, int] = {}
    for table, *_ in rows(db, "PRAGMA foreign_key_check"):
        broken[table] = broken.get(table, 0) + 1
    yield from (f"rows of {table} that belong to nothing: {count:,}" for table, count in broken.items())


def of_collection(db: apsw.Connection, collection: int, dimensions: int, *, sparse: bool) -> Iterator[str]:
    given = {"collection": collection, "dimensions": dimensions, "sparse": sparse}
    for each in QUESTIONS:
        if count := number(db, each.sql, given):
            yield f"{each.told}: {count:,}"
