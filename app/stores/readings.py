"""Chunks as the token ids of a reranker: kept with them, and made again where another tokenizer is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apsw

from app.stores.rows import first, rows, token_bytes
from app.types import Reading

KEEP = "INSERT OR REPLACE INTO readings (chunk, tokenisation, width, ids)"


@dataclass(frozen=True, slots=True)
class Unread:
    """A chunk that has no reading by the tokenizer that is asked."""

    document: str
    chunk: int
    text: str


def insert(db: apsw.Connection, readings: Iterable[tuple[int, Reading]]) -> None:
    """Keep readings of chunks, by their numbers; those that are gone by now are passed over."""
    sql = f"{KEEP} SELECT number, ?, ?, ? FROM chunks WHERE number = ?"
    db.executemany(sql, [_row(chunk, reading) for chunk, reading in readings])


def unread(db: apsw.Connection, collection: int, tokenisation: bytes, since: str, amount: int) -> list[Unread]:
    """Some chunks that have no reading, by their documents' ids, from one of these on."""
    sql = (
        "SELECT d.id, c.number, c.text FROM documents d JOIN chunks c ON c.document = d.number"
        " LEFT JOIN readings r ON r.chunk = c.number AND r.tokenisation = ?"
        " WHERE d.collection = ? AND d.id >= ? AND r.chunk IS NULL ORDER BY d.id LIMIT ?"
    )
    return [Unread(*row) for row in rows(db, sql, (tokenisation, collection, since, amount))]


def complete(db: apsw.Connection, collection: int) -> bytes | None:
    """By which tokenizer all chunks of a collection have been read, if that is known of one."""
    row = first(db, "SELECT tokenisation FROM collections WHERE number = ?", (collection,))
    return row[0] if row else None


def set_complete(db: apsw.Connection, collection: int, tokenisation: bytes | None) -> None:
    db.execute("UPDATE collections SET tokenisation = ? WHERE number = ?", (tokenisation, collection))


def _row(chunk: int, reading: Reading) -> tuple[bytes, int, bytes, int]:
    raw, width = token_bytes(reading.ids)
    return reading.tokenisation, width, raw, chunk
