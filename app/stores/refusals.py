"""Files that could not be read, in the truth: by what they hold, and with what they were tried."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import astuple, dataclass

import apsw

from app.stores.rows import now, rows, to_json

MOST = 10_000
"""Refusals that are kept, the newest; an older file costs one more attempt."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """To read a file of some content as a kind, for a collection."""

    collection: int
    sha256: str
    kind: str
    tried: str
    """The reader and its limits: others may fare better."""


def put(db: apsw.Connection, attempt: Attempt, reason: str) -> None:
    """In place of what was known of the same content; that of a collection which is gone by now is passed over."""
    columns = "collection, sha256, kind, tried, reason, created_at"
    sql = f"INSERT OR REPLACE INTO refusals ({columns}) SELECT ?, ?, ?, ?, ?, ? FROM collections WHERE number = ?"
    db.execute(sql, (*astuple(attempt), reason, now(), attempt.collection))
    db.execute("DELETE FROM refusals WHERE number <= (SELECT max(number) - ? FROM refusals)", (MOST,))


def find(db: apsw.Connection, attempts: Collection[Attempt]) -> dict[Attempt, str]:
    """Those that failed before, each with the reason."""
    sql = (
        "SELECT collection, sha256, kind, tried, reason FROM refusals WHERE sha256 IN (SELECT value FROM json_each(?))"
    )
    held = rows(db, sql, (to_json([attempt.sha256 for attempt in attempts]),))
    known = {Attempt(*attempt): reason for *attempt, reason in held}
    return {attempt: known[attempt] for attempt in attempts if attempt in known}


def remove(db: apsw.Connection, attempt: Attempt) -> None:
    """What could be read after all is forgotten."""
    sql = "DELETE FROM refusals WHERE collection = ? AND sha256 = ? AND kind = ?"
    db.execute(sql, (attempt.collection, attempt.sha256, attempt.kind))
