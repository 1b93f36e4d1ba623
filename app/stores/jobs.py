"""Ingests that callers can ask about.

A standby's documents came by the same jobs as those that it follows: a job tells of the collection that it is of.
"""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

import apsw

from app.stores.rows import first, now, rows
from app.types import Job

JOBS_KEPT = 10_000
LAST = 2**63 - 1


def begin(db: apsw.Connection, collection: int) -> tuple[int, str]:
    """A new job's number and id; the oldest jobs that are done are forgotten."""
    job = uuid4().hex
    db.execute(
        "DELETE FROM jobs WHERE number <= (SELECT max(number) - ? FROM jobs) AND NOT EXISTS"
        " (SELECT 1 FROM documents WHERE job = jobs.number AND state <> 'live')",
        (JOBS_KEPT,),
    )
    sql = "INSERT INTO jobs (id, collection, documents, created_at) VALUES (?, ?, 0, ?)"
    db.execute(sql, (job, collection, now()))
    return db.last_insert_rowid(), job


def grow(db: apsw.Connection, job: int, named: str, collection: int, documents: int) -> None:
    """Let it be of so many documents in all. One that was forgotten while its stream went on is there again."""
    db.execute(
        "INSERT INTO jobs (number, id, collection, documents, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (number) DO UPDATE SET documents = excluded.documents",
        (job, named, collection, documents, now()),
    )


def find(db: apsw.Connection, job: str) -> Job | None:
    columns = "j.number, c.number, c.name, j.documents, j.created_at"
    sql = f"SELECT {columns} FROM jobs j JOIN collections c ON c.number = j.collection WHERE j.id = ?"
    row = first(db, sql, (job,))
    if row is None:
        return None
    number, holder, collection, documents, created = row
    sql = (
        "SELECT state, count(*), max(error) FROM documents WHERE job = ? AND state <> 'live' AND collection = ?"
        " GROUP BY state"
    )
    states = {state: (amount, error) for state, amount, error in rows(db, sql, (number, holder))}
    pending, _ = states.get("pending", (0, None))
    failed, error = states.get("failed", (0, None))
    state: Literal["running", "failed", "done"] = "running" if pending else "failed" if failed else "done"
    return Job(job, collection, state, documents, documents - pending - failed, pending, failed, error, created)


def failures(db: apsw.Connection, job: int) -> dict[str, str]:
    """Which documents of a job can't be found, and why; the first hundred."""
    return failures_among(db, job, 0, LAST)[1]


def failures_among(db: apsw.Connection, job: int, after: int, through: int) -> tuple[int, dict[str, str]]:
    """The same of the versions behind one, up to another, and how many there are in all."""
    told = (
        "FROM documents d JOIN jobs j ON j.number = d.job AND j.collection = d.collection"
        " WHERE d.job = ? AND d.state = 'failed' AND +d.number > ? AND +d.number <= ?"  # few have failed: by the state
    )
    (count,) = first(db, f"SELECT count(*) {told}", (job, after, through)) or (0,)
    named = f"SELECT d.id, d.error {told} ORDER BY +d.number LIMIT 100"
    return count, dict(rows(db, named, (job, after, through)))
