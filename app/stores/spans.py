"""Documents that can be found, with the spans of their chunks: for whoever reads a collection out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import apsw
import orjson

from app.stores.rows import rows, to_json

COLUMNS = (
    'd.id, d.title, d.text, (SELECT json_group_array(json_array(number, start, "end")) FROM chunks'
    " WHERE document = d.number)"
)


@dataclass(frozen=True, slots=True)
class Text:
    """A document as it reads."""

    document: str
    title: str
    text: str
    chunks: dict[int, tuple[int, int]]
    """Where each one begins and ends, by its number."""

    def part(self, span: tuple[int, int]) -> str:
        return self.text[slice(*span)]

    def name(self, span: tuple[int, int]) -> str:
        """What a chunk is called where it stands by itself: as its document if that is all there is."""
        return self.document if len(self.chunks) == 1 else f"{self.document}#{span[0]}"


def page(db: apsw.Connection, collection: int, after: str, limit: int) -> list[Text]:
    """The next ones by their ids."""
    sql = f"SELECT {COLUMNS} FROM documents d WHERE collection = ? AND state = 'live' AND id > ? ORDER BY id LIMIT ?"
    return [_text(*row) for row in rows(db, sql, (collection, after, limit))]


def of(db: apsw.Connection, collection: int, documents: Collection[str]) -> list[Text]:
    sql = (
        f"SELECT {COLUMNS} FROM documents d WHERE collection = ? AND state = 'live'"
        " AND id IN (SELECT value FROM json_each(?))"
    )
    return [_text(*row) for row in rows(db, sql, (collection, to_json(list(documents))))]


def _text(document: str, title: str, text: str, chunks: str) -> Text:
    return Text(document, title, text, {number: (start, end) for number, start, end in orjson.loads(chunks)})
