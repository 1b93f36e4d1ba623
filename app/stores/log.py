"""The way of a document from waiting to searchable, and the log of changes that indexes follow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import apsw
import numpy as np

from app.stores import documents
from app.stores.rows import first, number, rows, sparse_bytes, sparse_vector, to_json, vector
from app.types import Change, ChunkIds, Expansion, Wording
from models.types import SparseVector, TokenVectors, Vectors


@dataclass(frozen=True, slots=True)
class Waiting:
    """A version of a document that has no vectors yet."""

    version: int
    chunks: list[int]
    texts: list[str]


def waiting(db: apsw.Connection, collection: int, chunks: int, after: int = 0) -> list[Waiting]:
    """The oldest waiting versions after one, as many as hold so many chunks, at least one."""
    found: list[Waiting] = []
    oldest = (
        "SELECT number FROM documents WHERE collection = ? AND state = 'pending' AND number > ? ORDER BY number LIMIT ?"
    )
    for (version,) in rows(db, oldest, (collection, after, chunks)):
        held = rows(db, "SELECT number, text FROM chunks WHERE document = ? ORDER BY number", (version,))
        found.append(Waiting(version, [chunk for chunk, _ in held], [text for _, text in held]))
        chunks -= len(held)
        if chunks <= 0:
            break
    return found


def publish(
    db: apsw.Connection,
    collection: int,
    version: Waiting,
    vectors: Vectors,
    sparse: Sequence[SparseVector] = (),
    tokens: Sequence[TokenVectors] = (),
) -> None:
    """Let a version take the place of the live one. One that was superseded or deleted meanwhile is passed over."""
    if not is_waiting(db, version.version):
        return
    documents.replace(db, version.version)
    db.executemany(
        "INSERT INTO vectors (chunk, vector) VALUES (?, ?)",
        [(chunk, vector.tobytes()) for chunk, vector in zip(version.chunks, vectors, strict=True)],
    )
    if sparse:
        db.executemany(
            "INSERT INTO sparse_vectors (chunk, vector) VALUES (?, ?)",
            [(chunk, sparse_bytes(vector)) for chunk, vector in zip(version.chunks, sparse, strict=True)],
        )
    if tokens:
        db.executemany(
            "INSERT INTO token_vectors (chunk, numbers) VALUES (?, ?)",
            [(chunk, numbers.tobytes()) for chunk, numbers in zip(version.chunks, tokens, strict=True)],
        )
    db.executemany(
        "INSERT INTO changes (collection, chunk, kind) VALUES (?, ?, 'add')",
        [(collection, chunk) for chunk in version.chunks],
    )
    db.execute("UPDATE documents SET state = 'live' WHERE number = ?", (version.version,))


def unpublished(db: apsw.Connection, chunks: Collection[int]) -> tuple[list[int], list[int]]:
    """Of some chunks, those that are gone or have failed and those that still wait for their vectors."""
    sql = (
        "SELECT value, d.state IS NOT 'pending' FROM json_each(?) LEFT JOIN chunks c ON c.number = value"
        " LEFT JOIN documents d ON d.number = c.document WHERE NOT EXISTS (SELECT 1 FROM vectors WHERE chunk = value)"
    )
    found = rows(db, sql, (to_json(list(chunks)),))
    return [chunk for chunk, gone in found if gone], [chunk for chunk, gone in found if not gone]


def fail(db: apsw.Connection, version: int, error: str) -> None:
    sql = "UPDATE documents SET state = 'failed', error = ? WHERE number = ? AND state = 'pending'"
    db.execute(sql, (error, version))


def is_waiting(db: apsw.Connection, version: int) -> bool:
    return bool(number(db, "SELECT count(*) FROM documents WHERE number = ? AND state = 'pending'", (version,)))


def is_settled(db: apsw.Connection, collection: int, through: int) -> bool:
    """Whether no version waits any more, up to this one: they are taken in this order. Not by their number: whoever
    waits asks after every round, and there may be many of both."""
    sql = "SELECT 1 FROM documents WHERE collection = ? AND state = 'pending' AND number <= ? LIMIT 1"
    return first(db, sql, (collection, through)) is None


def lag(db: apsw.Connection, collection: int) -> int:
    """Documents that were acknowledged and can't be found yet."""
    return number(db, "SELECT count(*) FROM documents WHERE collection = ? AND state = 'pending'", (collection,))


def head(db: apsw.Connection, collection: int) -> int:
    """The last change of a collection."""
    row = first(db, "SELECT max(sequence) FROM changes WHERE collection = ?", (collection,))
    return int(row[0]) if row and row[0] is not None else floor(db, collection)


def floor(db: apsw.Connection, collection: int) -> int:
    """The last change that the log has forgotten."""
    return number(db, "SELECT floor FROM collections WHERE number = ?", (collection,))


def removed(db: apsw.Connection, collection: int, after: int) -> ChunkIds | None:
    """The chunks that went since; None when the log has forgotten some of it."""
    if floor(db, collection) > after:
        return None
    sql = "SELECT chunk FROM changes WHERE collection = ? AND sequence > ? AND kind = 'remove'"
    return np.array([chunk for (chunk,) in rows(db, sql, (collection, after))], np.int64)


def changed(db: apsw.Connection, collection: int, after: int) -> ChunkIds:
    """The chunks that came or went since."""
    sql = "SELECT DISTINCT chunk FROM changes WHERE collection = ? AND sequence > ?"
    return np.array([chunk for (chunk,) in rows(db, sql, (collection, after))], np.int64)


def changes(db: apsw.Connection, collection: int, after: int, limit: int) -> list[Change]:
    """The next steps of the log. An addition that was undone later shows as gone already."""
    sql = (
        "SELECT sequence, ch.chunk, vector FROM changes ch LEFT JOIN vectors v ON v.chunk = ch.chunk AND kind = 'add'"
        " WHERE collection = ? AND sequence > ? ORDER BY sequence LIMIT ?"
    )
    return [
        Change(sequence, chunk, None if raw is None else vector(raw))
        for sequence, chunk, raw in rows(db, sql, (collection, after, limit))
    ]


def wordings(db: apsw.Connection, collection: int, after: int, limit: int) -> list[Wording]:
    """The same with texts."""
    sql = (
        "SELECT sequence, ch.chunk, c.text FROM changes ch LEFT JOIN chunks c ON c.number = ch.chunk AND kind = 'add'"
        " WHERE collection = ? AND sequence > ? ORDER BY sequence LIMIT ?"
    )
    return [Wording(*row) for row in rows(db, sql, (collection, after, limit))]


def expansions(db: apsw.Connection, collection: int, after: int, limit: int) -> list[Expansion]:
    """The same with sparse vectors."""
    sql = (
        "SELECT sequence, ch.chunk, vector FROM changes ch"
        " LEFT JOIN sparse_vectors s ON s.chunk = ch.chunk AND kind = 'add'"
        " WHERE collection = ? AND sequence > ? ORDER BY sequence LIMIT ?"
    )
    return [
        Expansion(sequence, chunk, None if raw is None else sparse_vector(raw))
        for sequence, chunk, raw in rows(db, sql, (collection, after, limit))
    ]


def prune(db: apsw.Connection, collection: int, through: int) -> None:
    """Forget the log up to what a snapshot on disk has seen."""
    db.execute("DELETE FROM changes WHERE collection = ? AND sequence <= ?", (collection, through))
    db.execute("UPDATE collections SET floor = max(floor, ?) WHERE number = ?", (through, collection))


def living(db: apsw.Connection, collection: int, block: int) -> Iterator[list[Change]]:
    """All that an index must hold, in blocks, each as of the last change."""
    last = head(db, collection)
    cursor = db.execute(
        "SELECT v.chunk, v.vector FROM documents d"
        " JOIN chunks c ON c.document = d.number JOIN vectors v ON v.chunk = c.number"
        " WHERE d.collection = ? AND d.state = 'live'",
        (collection,),
    )
    while some := [Change(last, int(chunk), vector(raw)) for chunk, raw in islice(cursor, block)]:
        yield some


def vectors(db: apsw.Connection, chunks: ChunkIds, dimensions: int) -> tuple[ChunkIds, Vectors]:
    """Those of these chunks that live, with their vectors."""
    sql = "SELECT chunk, vector FROM vectors WHERE chunk IN (SELECT value FROM json_each(?))"
    found, held, count = np.empty(len(chunks), np.int64), np.empty((len(chunks), dimensions), np.float32), 0
    for chunk, raw in rows(db, sql, (to_json(chunks.tolist()),)):
        found[count], held[count] = chunk, vector(raw)
        count += 1
    return found[:count], held[:count]


def living_wordings(db: apsw.Connection, collection: int, block: int) -> Iterator[list[Wording]]:
    """The same with texts."""
    last = head(db, collection)
    cursor = db.execute(
        "SELECT c.number, c.text FROM documents d JOIN chunks c ON c.document = d.number"
        " WHERE d.collection = ? AND d.state = 'live'",
        (collection,),
    )
    while some := [Wording(last, int(chunk), text) for chunk, text in islice(cursor, block)]:
        yield some


def living_expansions(db: apsw.Connection, collection: int, block: int) -> Iterator[list[Expansion]]:
    """The same with sparse vectors."""
    last = head(db, collection)
    cursor = db.execute(
        "SELECT s.chunk, s.vector FROM documents d"
        " JOIN chunks c ON c.document = d.number JOIN sparse_vectors s ON s.chunk = c.number"
        " WHERE d.collection = ? AND d.state = 'live'",
        (collection,),
    )
    while some := [Expansion(last, int(chunk), sparse_vector(raw)) for chunk, raw in islice(cursor, block)]:
        yield some


def living_chunks(db: apsw.Connection, collection: int) -> ChunkIds:
    sql = (
        "SELECT c.number FROM documents d JOIN chunks c ON c.document = d.number"
        " WHERE d.collection = ? AND d.state = 'live'"
    )
    return np.array([chunk for (chunk,) in rows(db, sql, (collection,))], np.int64)


def count_living(db: apsw.Connection, collection: int) -> int:
    """How many chunks an index must hold."""
    return number(db, "SELECT sum(chunks) FROM documents WHERE collection = ? AND state = 'live'", (collection,))
