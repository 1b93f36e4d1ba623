"""What people made of answers, in the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import apsw

from app.stores.rows import first, now, number, rows, to_json

Kind = Literal["judged", "clicked"]
Outcome = Literal["created", "updated", "unchanged"]

Span = tuple[int, int]
"""Of a document's text."""


@dataclass(frozen=True, slots=True)
class Target:
    """What feedback is about: a document as it stands, and perhaps a span of it."""

    document: str
    content: bytes
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """Feedback on a document that can be found."""

    query: str
    document: str
    kind: Kind
    grade: int
    span: Span | None
    """None where none was named, or where the document's text is another one now."""
    is_current: bool
    """Whether it was given on the text that the document has now."""


@dataclass(frozen=True, slots=True)
class Totals:
    """How much there is of a collection."""

    judged: int
    clicked: int
    queries: int


def put(
    db: apsw.Connection, collection: int, query: str, target: Target, kind: Kind, grade: int, request: str
) -> Outcome:
    """In place of what the same request said before of this document for this query."""
    identity = (collection, query, target.document, kind, request)
    said = (grade, *(target.span or (None, None)), target.content)
    held = first(
        db,
        'SELECT grade, start, "end", content FROM feedback'
        " WHERE collection = ? AND query = ? AND document = ? AND kind = ? AND request = ?",
        identity,
    )
    if held == said:
        return "unchanged"
    db.execute(
        'INSERT INTO feedback (collection, query, document, kind, request, grade, start, "end", content, created_at)'
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET grade = excluded.grade,"
        ' start = excluded.start, "end" = excluded."end", content = excluded.content, created_at = excluded.created_at',
        (*identity, *said, now()),
    )
    return "updated" if held else "created"


def document(db: apsw.Connection, collection: int, id_: str) -> Target | None:
    """The version that can be found or, before there is one, that will be."""
    sql = "SELECT id, content FROM documents WHERE collection = ? AND id = ? ORDER BY state <> 'live' LIMIT 1"
    row = first(db, sql, (collection, id_))
    return Target(*row) if row else None


def chunk(db: apsw.Connection, collection: int, number: int) -> Target | None:
    sql = (
        'SELECT d.id, d.content, c.start, c."end" FROM chunks c JOIN documents d ON d.number = c.document'
        " WHERE d.collection = ? AND c.number = ?"
    )
    row = first(db, sql, (collection, number))
    return Target(row[0], row[1], (row[2], row[3])) if row else None


def count(db: apsw.Connection, collection: int) -> int:
    return number(db, "SELECT count(*) FROM feedback WHERE collection = ?", (collection,))


def totals(db: apsw.Connection, collection: int) -> Totals:
    sql = "SELECT kind, count(*) FROM feedback WHERE collection = ? GROUP BY kind"
    kinds = dict(rows(db, sql, (collection,)))
    queries = number(db, "SELECT count(DISTINCT query) FROM feedback WHERE collection = ?", (collection,))
    return Totals(kinds.get("judged", 0), kinds.get("clicked", 0), queries)


def queries(db: apsw.Connection, collection: int, after: str, limit: int) -> list[str]:
    """The next queries that there is feedback on, in their order."""
    sql = "SELECT DISTINCT query FROM feedback WHERE collection = ? AND query > ? ORDER BY query LIMIT ?"
    return [query for (query,) in rows(db, sql, (collection, after, limit))]


def of_queries(db: apsw.Connection, collection: int, queries: Sequence[str]) -> list[Given]:
    """Feedback on these queries, document by document; on documents that are gone there is none."""
    sql = (
        'SELECT f.query, f.document, f.kind, f.grade, f.start, f."end", f.content = d.content FROM feedback f'
        " JOIN documents d ON d.collection = f.collection AND d.id = f.document AND d.state = 'live'"
        " WHERE f.collection = ? AND f.query IN (SELECT value FROM json_each(?)) ORDER BY f.query, f.document"
    )
    return [
        Given(query, document, kind, grade, (start, end) if same and end is not None else None, bool(same))
        for query, document, kind, grade, start, end, same in rows(db, sql, (collection, to_json(list(queries))))
    ]


def remove(db: apsw.Connection, collection: int) -> int:
    """All of a collection; says how much it was."""
    db.execute("DELETE FROM feedback WHERE collection = ?", (collection,))
    return db.changes()
