"""Standbys in the truth: which documents they have yet to take over, the taking over, and the change of places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import apsw

from app.stores import documents, log
from app.stores.documents import Stored
from app.stores.rows import first, number, rows, to_json
from app.types import STANDBY, Chunk, Document

LACKING = (
    "FROM documents d WHERE collection = ? AND state = 'failed'"
    " AND EXISTS (SELECT 1 FROM documents WHERE collection = ? AND id = d.id AND state <> 'failed')"
)
"""What a standby failed to take, and the collection that it follows has, or may yet have."""


@dataclass(frozen=True, slots=True)
class Stale:
    """A document that a standby has yet to look at, as it was when this was read."""

    ticket: int
    id: str
    held: Stored | None
    """None where it is gone."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a standby is from having what it follows has."""

    behind: int
    """Documents that it has yet to look at."""
    pending: int
    """Documents that it has, and that can't be found yet."""
    failed: int
    """Documents that it can't take, although what it follows has them."""


def begin(db: apsw.Connection, standby: int, followed: int) -> None:
    """Let a collection that is empty follow another one. From here on the triggers see to it."""
    db.execute("UPDATE collections SET follows = ? WHERE number = ?", (followed, standby))
    sql = "INSERT INTO stale (collection, id) SELECT DISTINCT ?, id FROM documents WHERE collection = ?"
    db.execute(sql, (standby, followed))


def of(db: apsw.Connection, followed: int) -> int | None:
    """The number of a collection's standby, if it has one."""
    row = first(db, "SELECT number FROM collections WHERE follows = ?", (followed,))
    return row[0] if row else None


def stale(db: apsw.Connection, standby: int, followed: int, limit: int) -> list[Stale]:
    """Those that have waited longest."""
    sql = "SELECT ticket, id FROM stale WHERE collection = ? ORDER BY ticket LIMIT ?"
    waiting = rows(db, sql, (standby, limit))
    return [Stale(ticket, document, documents.find(db, followed, document)) for ticket, document in waiting]


def take_over(
    db: apsw.Connection, standby: int, taken: Sequence[Stale], split: Callable[[Document], Sequence[Chunk] | str]
) -> None:
    """Do with these as the followed collection did. What has a newer ticket by now is left to that one.

    Instead of chunks there may be the reason why there are none: then the document has failed here.
    """
    tickets = to_json([each.ticket for each in taken])
    sql = "DELETE FROM stale WHERE collection = ? AND ticket IN (SELECT value FROM json_each(?)) RETURNING ticket"
    current = {ticket for (ticket,) in rows(db, sql, (standby, tickets))}
    for each in taken:
        if each.ticket in current:
            _take_over(db, standby, each, split)


def _take_over(
    db: apsw.Connection, standby: int, one: Stale, split: Callable[[Document], Sequence[Chunk] | str]
) -> None:
    if one.held is None:
        documents.delete(db, standby, [one.id])
        return
    reason = ""

    def chunks(document: Document) -> Sequence[Chunk]:
        nonlocal reason
        found = split(document)
        reason, made = (found, ()) if isinstance(found, str) else ("", found)
        return made

    job = first(db, "SELECT number FROM jobs WHERE number = ?", (one.held.job,))
    put = documents.put(db, standby, job[0] if job else None, one.held.document, chunks)
    documents.date(db, put.version, one.held.created_at)
    if reason:
        log.fail(db, put.version, reason)


def progress(db: apsw.Connection, standby: int, followed: int) -> Progress:
    sql = f"SELECT count(*) {LACKING}"
    return Progress(behind(db, standby), log.lag(db, standby), number(db, sql, (standby, followed)))


def behind(db: apsw.Connection, standby: int) -> int:
    return number(db, "SELECT count(*) FROM stale WHERE collection = ?", (standby,))


def failures(db: apsw.Connection, standby: int, followed: int, limit: int) -> dict[str, str]:
    """Some of the documents that it can't take, and why."""
    sql = f"SELECT id, error {LACKING} ORDER BY +number LIMIT ?"
    return dict(rows(db, sql, (standby, followed, limit)))


def switch(db: apsw.Connection, name: str, standby: int, followed: int, overrules: str, *, force: bool) -> Progress:
    """Let a standby that has everything take the place, the name, the jobs, the feedback and the refusals of what it
    follows, which becomes its standby. Says how far it was: if anything was left to do, or lacking without force,
    nothing has happened."""
    found = progress(db, standby, followed)
    if found.behind or found.pending or (found.failed and not force):
        return found
    db.execute(
        "UPDATE collections SET name = ?, follows = NULL WHERE number = ?", (f"{name}{STANDBY}{STANDBY}", standby)
    )
    db.execute("UPDATE collections SET name = ?, follows = ? WHERE number = ?", (f"{name}{STANDBY}", standby, followed))
    db.execute("UPDATE collections SET name = ?, overrules = ? WHERE number = ?", (name, overrules, standby))
    for table in ("jobs", "feedback"):
        db.execute(f"UPDATE {table} SET collection = ? WHERE collection = ?", (standby, followed))
    # A file that was being read during an earlier switch may be known there already.
    db.execute("UPDATE OR REPLACE refusals SET collection = ? WHERE collection = ?", (standby, followed))
    return found
