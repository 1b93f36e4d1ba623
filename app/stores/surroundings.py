"""What stands around chunks in the truth: their vectors, their neighbours, the text between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apsw
import numpy as np

from app.stores.rows import first, rows, to_json, vector
from models.types import Vectors


@dataclass(frozen=True, slots=True)
class Around:
    """From where to where a chunk's neighbourhood reaches in its document."""

    version: int
    start: int
    end: int


def vectors_of(db: apsw.Connection, chunks: Sequence[int]) -> Vectors | None:
    """One row for each; None when one of them has gone meanwhile."""
    sql = "SELECT vector FROM json_each(?) wanted JOIN vectors ON chunk = wanted.value ORDER BY wanted.key"
    found = [vector(raw) for (raw,) in rows(db, sql, (to_json(list(chunks)),))]
    return np.stack(found) if found and len(found) == len(chunks) else None


def around(db: apsw.Connection, chunk: int, neighbours: int) -> Around | None:
    """With so many chunks before and behind. Those of a document are numbered without a gap."""
    sql = (
        'SELECT c.document, min(c.start), max(c."end") FROM chunks own JOIN chunks c ON c.document = own.document'
        " WHERE own.number = ? AND c.number BETWEEN own.number - ? AND own.number + ? GROUP BY c.document"
    )
    row = first(db, sql, (chunk, neighbours, neighbours))
    return Around(*row) if row else None


def text_between(db: apsw.Connection, version: int, start: int, end: int) -> str:
    row = first(db, "SELECT substr(text, ?, ?) FROM documents WHERE number = ?", (start + 1, end - start, version))
    return str(row[0]) if row else ""
