"""What is remembered of files that could not be read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from app.stores import refusals
from app.stores.refusals import Attempt
from app.stores.rows import number
from app.stores.sqlite import Database

PDF = Attempt(1, "a" * 64, "pdf", "pdf 1, limits (1, 2)")


def _two_collections(db: apsw.Connection) -> None:
    for name in ("one", "other"):
        sql = (
            "INSERT INTO collections (name, encoder, reranker, recipe, dimensions, fingerprint, created_at)"
            " VALUES (?, 'fake', 'fake', '{}', 64, 'f', 'then')"
        )
        db.execute(sql, (name,))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "winnow.db")
    await opened.write(_two_collections)
    yield opened
    opened.close()


async def test_the_same_attempt_is_known_and_no_other(database: Database) -> None:
    await database.write(lambda db: refusals.put(db, PDF, "is damaged"))
    others = [replace(PDF, sha256="b" * 64), replace(PDF, kind="docx"), replace(PDF, collection=2)]
    others.append(replace(PDF, tried="pdf 2, limits (1, 2)"))
    assert await database.read(lambda db: refusals.find(db, [PDF, *others])) == {PDF: "is damaged"}
    assert await database.read(lambda db: refusals.find(db, [])) == {}


async def test_the_last_attempt_at_a_content_counts(database: Database) -> None:
    later = replace(PDF, tried="pdf 2, limits (1, 2)")
    await database.write(lambda db: refusals.put(db, PDF, "is damaged"))
    await database.write(lambda db: refusals.put(db, later, "is still damaged"))
    assert await database.read(lambda db: refusals.find(db, [PDF, later])) == {later: "is still damaged"}
    await database.write(lambda db: refusals.remove(db, PDF))
    assert await database.read(lambda db: refusals.find(db, [PDF, later])) == {}


async def test_the_oldest_are_forgotten(database: Database) -> None:
    def fill(db: apsw.Connection) -> int:
        for place in range(refusals.MOST + 5):
            refusals.put(db, replace(PDF, sha256=f"{place:064}"), "is damaged")
        return number(db, "SELECT count(*) FROM refusals")

    assert await database.write(fill) == refusals.MOST
    first, last = replace(PDF, sha256=f"{4:064}"), replace(PDF, sha256=f"{5:064}")
    assert list(await database.read(lambda db: refusals.find(db, [first, last]))) == [last]


async def test_that_of_a_collection_which_is_gone_is_passed_over(database: Database) -> None:
    gone = replace(PDF, collection=3)
    await database.write(lambda db: refusals.put(db, gone, "is damaged"))
    assert await database.read(lambda db: refusals.find(db, [gone])) == {}
