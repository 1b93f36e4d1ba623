"""Which documents say that they take the place of others: their metadata names the others' ids in `supersedes`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from app.stores.metadata import classify
from app.stores.rows import first, rows

FIELD = "supersedes"


def successors(db: apsw.Connection, collection: int, ids: Iterable[str]) -> dict[str, list[str]]:
    """Of these documents those that a living one supersedes, with its id. Two that name each other both stay."""
    if not first(db, "SELECT 1 FROM metadata_values WHERE collection = ? AND path = ? LIMIT 1", (collection, FIELD)):
        return {}
    found = {each: _naming(db, collection, each) for each in dict.fromkeys(ids)}
    return {each: kept for each, names in found.items() if (kept := _not_mutual(db, collection, each, names))}


def _naming(db: apsw.Connection, collection: int, document: str) -> Sequence[str]:
    """The other living documents that name this one."""
    sql = (
        "SELECT d.id FROM metadata_values v JOIN documents d ON d.number = v.document"
        " WHERE v.collection = ? AND v.path = ? AND v.kind = ? AND v.value = ? AND d.state = 'live' AND d.id <> ?"
        " ORDER BY d.number"
    )
    kind, value = classify(document)
    return [name for (name,) in rows(db, sql, (collection, FIELD, kind, value, document))]


def _not_mutual(db: apsw.Connection, collection: int, document: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if document not in _naming(db, collection, name)]
