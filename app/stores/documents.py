"""Documents and their chunks in the truth: taken in, looked up, deleted, and read by searches.

Plain functions on a connection: those that change something run inside `Database.write`, the rest in `Database.read`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import apsw
import orjson

from app.stores import readings
from app.stores.metadata import flatten
from app.stores.rows import first, now, rows, to_json, token_ids
from app.types import Chunk, ChunkIds, Document, Metadata, Place
from models.types import Ids

Outcome = Literal["created", "replaced", "updated", "unchanged"]
"""What became of a document: updated means that only its metadata changed, so that nothing is embedded again."""

NEWEST = (
    "NOT EXISTS (SELECT 1 FROM documents later"
    " WHERE later.collection = d.collection AND later.id = d.id AND later.number > d.number)"
)
"""Of a document's versions, the one that was acknowledged last."""


@dataclass(frozen=True, slots=True)
class Put:
    """A document taken in."""

    id: str
    outcome: Outcome
    version: int
    """The version that will be found, or is found already."""
    chunks: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk as it is kept, less its text."""

    number: int
    start: int
    end: int
    tokens: int
    place: Place


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it is kept."""

    document: Document
    state: Literal["live", "pending", "failed"]
    error: str | None
    chunks: list[Piece]
    created_at: str
    job: int | None
    """Of the ingest that it came with, as long as that is remembered."""


@dataclass(frozen=True, slots=True)
class Found:
    """A living chunk with what a hit tells of it."""

    chunk: int
    document: str
    title: str
    text: str
    start: int
    end: int
    metadata: Metadata
    reads: str
    """What the reranker reads: the text, with the title in front where the recipe puts it, and its headings."""
    tokens: int
    place: Place
    ids: Ids | None
    """What the reranker reads, as ids of the tokenizer that was asked for; None where there are none."""
    numbers: bytes | None
    """The vectors of its tokens, where they were asked for."""


@dataclass(frozen=True, slots=True)
class _Version:
    number: int
    content: bytes
    metadata: str
    chunks: int


def content_hash(document: Document) -> bytes:
    """Changes with whatever would have to be embedded again."""
    plain = document.format == "plain" and not document.pages
    shape = [] if plain else [document.format, document.pages]
    return hashlib.sha256(orjson.dumps([document.title, document.text, *shape])).digest()


def known_contents(db: apsw.Connection, collection: int, ids: Sequence[str]) -> dict[str, set[bytes]]:
    """The contents of which chunks are held already for these ids, so that unchanged documents need not be chunked."""
    known: dict[str, set[bytes]] = {}
    sql = (
        "SELECT id, content FROM documents"
        " WHERE collection = ? AND chunks > 0 AND id IN (SELECT value FROM json_each(?))"
    )
    for document, content in rows(db, sql, (collection, to_json(list(ids)))):
        known.setdefault(document, set()).add(content)
    return known


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that a document was made of, by its content, and what made it."""

    sha256: str
    converter: str


def origins(db: apsw.Connection, collection: int, ids: Sequence[str]) -> dict[str, Origin]:
    """The files of which the newest versions were made, as far as they were and are not to be tried again."""
    sql = (
        "SELECT id, metadata ->> '$.file.sha256', metadata ->> '$.file.converter' FROM documents d"
        f" WHERE collection = ? AND state <> 'failed' AND id IN (SELECT value FROM json_each(?)) AND {NEWEST}"
    )
    held = rows(db, sql, (collection, to_json(list(ids))))
    return {document: Origin(sha256, converter) for document, sha256, converter in held if sha256 and converter}


def put(
    db: apsw.Connection,
    collection: int,
    job: int | None,
    document: Document,
    split: Callable[[Document], Sequence[Chunk]],
) -> Put:
    """Take in one document. A version that still waits is superseded; the live one stays until the new one is found.

    One without chunks could not be split: it is taken in anew, so that it is refused anew.
    """
    content = content_hash(document)
    live, waiting = _versions(db, collection, document.id)
    newest = waiting or live
    if waiting and not (waiting.chunks and waiting.content == content):
        _delete_version(db, waiting.number)
        newest = live
    if newest and newest.chunks and newest.content == content:
        return _touch(db, collection, job, document, newest)
    return _insert(db, collection, job, document, split(document), "replaced" if waiting or live else "created")


def _versions(db: apsw.Connection, collection: int, document: str) -> tuple[_Version | None, _Version | None]:
    """The live version and the one that is to follow it."""
    sql = "SELECT state, number, content, metadata, chunks FROM documents WHERE collection = ? AND id = ?"
    held = {state == "live": _Version(*row) for state, *row in rows(db, sql, (collection, document))}
    return held.get(True), held.get(False)


def _touch(db: apsw.Connection, collection: int, job: int | None, document: Document, version: _Version) -> Put:
    """Same content: keep the vectors, take over new metadata, and try again what had failed. What is not found yet is
    of the job that gave it last, which would else be done at once."""
    waits = "UPDATE documents SET state = 'pending', error = NULL, job = ? WHERE number = ? AND state <> 'live'"
    db.execute(waits, (job, version.number))
    changed = _change(db, collection, version, document.metadata)
    return Put(document.id, "updated" if changed else "unchanged", version.number, version.chunks)


def amend(
    db: apsw.Connection, collection: int, ids: Sequence[str], change: Callable[[str, Metadata], Metadata]
) -> dict[str, bool]:
    """Change what is said of documents, in every version of them; tells of those that there are whether it did."""
    amended = {}
    for document in dict.fromkeys(ids):
        versions = [each for each in _versions(db, collection, document) if each]
        changed = [_change(db, collection, each, change(document, orjson.loads(each.metadata))) for each in versions]
        if versions:
            amended[document] = any(changed)
    return amended


def _change(db: apsw.Connection, collection: int, version: _Version, metadata: Metadata) -> bool:
    """Whether that is other metadata than it has."""
    kept = to_json(metadata)
    if version.metadata == kept:
        return False
    grown = len(kept.encode()) - len(version.metadata.encode())
    sql = "UPDATE documents SET metadata = ?, bytes = bytes + ? WHERE number = ?"
    db.execute(sql, (kept, grown, version.number))
    db.execute("DELETE FROM metadata_values WHERE document = ?", (version.number,))
    _insert_metadata(db, collection, version.number, metadata)
    return True


def _insert(
    db: apsw.Connection,
    collection: int,
    job: int | None,
    document: Document,
    chunks: Sequence[Chunk],
    outcome: Outcome,
) -> Put:
    metadata = to_json(document.metadata)
    db.execute(
        "INSERT INTO documents"
        " (collection, id, state, content, title, text, format, pages, metadata, job, created_at, chunks, bytes)"
        " VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            collection,
            document.id,
            content_hash(document),
            document.title,
            document.text,
            document.format,
            to_json(document.pages),
            metadata,
            job,
            now(),
            len(chunks),
            sum(len(part.encode()) for part in (document.title, document.text, metadata)),
        ),
    )
    version = db.last_insert_rowid()
    _insert_chunks(db, version, chunks)
    _insert_metadata(db, collection, version, document.metadata)
    return Put(document.id, outcome, version, len(chunks))


def _insert_chunks(db: apsw.Connection, version: int, chunks: Sequence[Chunk]) -> None:
    numbers = db.executemany(
        'INSERT INTO chunks (document, start, "end", tokens, text, page, last_page, heading)'
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
        [(version, each.start, each.end, each.tokens, each.text, *astuple(each.place)) for each in chunks],
    )
    made = [(chunk, each.reading) for (chunk,), each in zip(numbers, chunks, strict=True)]
    readings.insert(db, [(chunk, reading) for chunk, reading in made if reading])


def _insert_metadata(db: apsw.Connection, collection: int, version: int, metadata: Metadata) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO metadata_values (collection, path, kind, value, document) VALUES (?, ?, ?, ?, ?)",
        [(collection, row.path, row.kind, row.value, version) for row in flatten(metadata)],
    )


def find(db: apsw.Connection, collection: int, document: str) -> Stored | None:
    """The newest version that was acknowledged."""
    columns = "number, title, text, metadata, format, pages, state, error, created_at, job"
    newest = f"SELECT {columns} FROM documents WHERE collection = ? AND id = ? ORDER BY number DESC LIMIT 1"
    row = first(db, newest, (collection, document))
    if row is None:
        return None
    version, title, text, metadata, form, pages, state, error, created, job = row
    sql = 'SELECT number, start, "end", tokens, page, last_page, heading FROM chunks WHERE document = ? ORDER BY number'
    chunks = [
        Piece(chunk, start, end, tokens, Place(*place))
        for chunk, start, end, tokens, *place in rows(db, sql, (version,))
    ]
    found = Document(document, text, title, orjson.loads(metadata), form, tuple(orjson.loads(pages)))
    return Stored(found, state, error, chunks, created, job)


def date(db: apsw.Connection, version: int, created_at: str) -> None:
    """Let a version be as old as the one that it was made of."""
    db.execute("UPDATE documents SET created_at = ? WHERE number = ?", (created_at, version))


def delete(db: apsw.Connection, collection: int, ids: Sequence[str]) -> list[str]:
    """Delete documents with all their versions; says which there were."""
    sql = "SELECT number, id FROM documents WHERE collection = ? AND id IN (SELECT value FROM json_each(?))"
    versions = rows(db, sql, (collection, to_json(list(ids))))
    for version, _ in versions:
        _delete_version(db, version)
    return sorted({document for _, document in versions})


def of_versions(db: apsw.Connection, collection: int, versions: Sequence[int]) -> list[str]:
    """The documents of which these are versions."""
    sql = "SELECT DISTINCT id FROM documents WHERE collection = ? AND number IN (SELECT value FROM json_each(?))"
    return [document for (document,) in rows(db, sql, (collection, to_json(list(versions))))]


def replace(db: apsw.Connection, version: int) -> None:
    """Make room for a version: delete the live one of the same document."""
    sql = (
        "SELECT old.number FROM documents new JOIN documents old ON old.collection = new.collection AND old.id = new.id"
        " WHERE new.number = ? AND old.state = 'live'"
    )
    for (live,) in rows(db, sql, (version,)):
        _delete_version(db, live)


def _delete_version(db: apsw.Connection, version: int) -> None:
    db.execute(
        "INSERT INTO changes (collection, chunk, kind)"
        " SELECT d.collection, c.number, 'remove' FROM documents d JOIN chunks c ON c.document = d.number"
        " JOIN vectors v ON v.chunk = c.number WHERE d.number = ? ORDER BY c.number",
        (version,),
    )
    db.execute("DELETE FROM documents WHERE number = ?", (version,))


def load(
    db: apsw.Connection,
    collection: int,
    chunks: ChunkIds,
    tokenisation: bytes | None = None,
    *,
    tokens: bool = False,
) -> list[Found]:
    """The living ones of these chunks, in the order asked for; on request with ids of a tokenizer, and with vectors of
    tokens."""
    found = rows(
        db,
        'SELECT c.number, d.id, d.title, c.start, c."end", d.metadata, c.text, c.tokens, r.ids, r.width, t.numbers,'
        " c.page, c.last_page, c.heading"
        " FROM json_each(?) wanted JOIN chunks c ON c.number = wanted.value JOIN documents d ON d.number = c.document"
        " LEFT JOIN readings r ON r.chunk = c.number AND r.tokenisation = ?"
        " LEFT JOIN token_vectors t ON t.chunk = c.number AND ?"
        " WHERE d.collection = ? AND d.state = 'live' ORDER BY wanted.key",
        (to_json(chunks.tolist()), tokenisation, tokens, collection),
    )
    return [
        Found(
            chunk,
            document,
            title,
            reads[len(reads) - (end - start) :],
            start,
            end,
            orjson.loads(metadata),
            reads,
            counted,
            Place(*place),
            None if ids is None else token_ids(ids, width),
            numbers,
        )
        for chunk, document, title, start, end, metadata, reads, counted, ids, width, numbers, *place in found
    ]
