"""Collections in the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import apsw
import orjson

from app.stores.rows import now, number, rows, to_json
from app.types import Collection, Recipe
from models.words import Language


@dataclass(frozen=True, slots=True)
class Contents:
    """How much a collection holds."""

    documents: int
    pending: int
    failed: int
    chunks: int
    bytes: int
    """Of titles, texts and metadata, in UTF-8."""


def insert(
    db: apsw.Connection,
    name: str,
    encoder: str,
    reranker: str,
    recipe: Recipe,
    dimensions: int,
    fingerprint: str,
    language: Language,
    sparse: str = "",
    sparse_fingerprint: str = "",
    late: str = "",
) -> Collection:
    db.execute(
        "INSERT INTO collections (name, encoder, reranker, recipe, dimensions, fingerprint, language, created_at,"
        " sparse, sparse_fingerprint, late) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (name, encoder, reranker, to_json(asdict(recipe)), dimensions, fingerprint, language, now(), sparse,
         sparse_fingerprint, late),
    )  # fmt: skip
    return next(collection for collection in every(db) if collection.name == name)


def every(db: apsw.Connection) -> list[Collection]:
    columns = (
        "number, name, encoder, reranker, recipe, dimensions, fingerprint, language, created_at, sparse,"
        " sparse_fingerprint, late, follows, overrules"
    )
    return [
        Collection(number, name, encoder, reranker, Recipe(**orjson.loads(recipe)), *rest)
        for number, name, encoder, reranker, recipe, *rest in rows(
            db, f"SELECT {columns} FROM collections ORDER BY name"
        )
    ]


def set_reranker(db: apsw.Connection, collection: int, reranker: str) -> None:
    db.execute("UPDATE collections SET reranker = ? WHERE number = ?", (reranker, collection))


def exists(db: apsw.Connection, collection: int) -> bool:
    return bool(number(db, "SELECT count(*) FROM collections WHERE number = ?", (collection,)))


def follows(db: apsw.Connection, collection: int) -> bool:
    """Whether it is another one's standby."""
    return bool(number(db, "SELECT count(follows) FROM collections WHERE number = ?", (collection,)))


def drop(db: apsw.Connection, collection: int) -> None:
    """Delete a collection and all it holds."""
    db.execute("DELETE FROM changes WHERE collection = ?", (collection,))
    db.execute("DELETE FROM collections WHERE number = ?", (collection,))


def contents(db: apsw.Connection, collection: int) -> Contents:
    sql = "SELECT state, count(*), sum(chunks), sum(bytes) FROM documents WHERE collection = ? GROUP BY state"
    states = {state: held for state, *held in rows(db, sql, (collection,))}
    live, pending, failed = (states.get(state, [0, 0, 0]) for state in ("live", "pending", "failed"))
    return Contents(live[0], pending[0], failed[0], live[1], live[2])
