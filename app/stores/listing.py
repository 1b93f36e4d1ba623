"""Documents one after the other, in the order in which they were taken in: a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from app.stores.documents import NEWEST
from app.stores.filters import Filter, condition_of

MOST_CHARS = 4_000_000
"""Of texts and metadata on one page, unless a single document has more."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The newest version of a document, less its chunks."""

    version: int
    id: str
    title: str
    metadata: str
    """As JSON."""
    state: str
    error: str | None
    chunks: int
    created_at: str
    text: str | None
    """Where it was asked for."""


def page(
    db: apsw.Connection, collection: int, wanted: Filter | None, after: int, most: int, *, texts: bool
) -> tuple[list[Listed], bool]:
    """Those behind a version, and whether there are more."""
    condition = condition_of(wanted, collection)
    columns = "document, id, title, metadata, state, error, chunks, created_at, iif(?, text, NULL)"
    newest = f"SELECT number AS document, d.* FROM documents d WHERE collection = ? AND number > ? AND {NEWEST}"
    sql = f"SELECT {columns} FROM ({newest}) given WHERE {condition.text} ORDER BY document LIMIT ?"
    found: list[Listed] = []
    chars = 0
    for row in db.execute(sql, (texts, collection, after, *condition.parameters, most + 1)):
        listed = Listed(*row)
        chars += len(listed.text or "") + len(listed.metadata)
        if len(found) == most or (found and chars > MOST_CHARS):
            return found, True
        found.append(listed)
    return found, False
