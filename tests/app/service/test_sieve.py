"""What a filter leaves is looked up once, and again as soon as anything was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from app.service import sieve as module
from app.service.sieve import Sieve
from app.stages.filter import parse
from app.stores.filters import Filter, allowed_chunks
from app.stores.sqlite import Database
from app.types import ChunkIds
from tests.app.serving import fakes, serving

SIZE = 2**16
RED, BLUE = parse({"colour": "red"}, 9), parse({"colour": "blue"}, 9)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "winnow.db")) as opened:
        yield opened


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Filter]]:
    """The look-ups that reach SQLite."""
    asked: list[tuple[int, Filter]] = []

    def look(db: apsw.Connection, wanted: Filter, collection: int) -> ChunkIds:
        asked.append((collection, wanted))
        return allowed_chunks(db, wanted, collection)

    monkeypatch.setattr(module, "allowed_chunks", look)
    return asked


async def nothing(database: Database) -> None:
    await database.write(lambda db: None)


async def test_a_filter_is_looked_up_once(database: Database, looked_up: list[tuple[int, Filter]]) -> None:
    sieve = Sieve(database, SIZE)
    answers = [await sieve.allowed(1, RED) for _ in range(3)]
    assert looked_up == [(1, RED)]
    assert [answer.tolist() for answer in answers] == [[], [], []]


async def test_filters_and_collections_are_kept_apart(database: Database, looked_up: list[tuple[int, Filter]]) -> None:
    sieve = Sieve(database, SIZE)
    different = [(1, RED), (1, BLUE), (2, RED), (1, parse({"colour": {"$ne": "red"}}, 9)), (1, parse({"n": 1}, 9))]
    different += [(1, parse({"n": "1"}, 9)), (1, parse({"n": True}, 9))]
    for collection, condition in different * 2:
        await sieve.allowed(collection, condition)
    assert looked_up == different


async def test_any_write_makes_it_look_again(database: Database, looked_up: list[tuple[int, Filter]]) -> None:
    sieve = Sieve(database, SIZE)
    await sieve.allowed(1, RED)
    await nothing(database)
    await sieve.allowed(1, RED)
    assert len(looked_up) == 2


async def test_a_write_that_fails_makes_it_look_again_too(
    database: Database, looked_up: list[tuple[int, Filter]]
) -> None:
    """A commit of which the writer heard an error may be on disk all the same."""
    sieve = Sieve(database, SIZE)
    tables = "CREATE TABLE a (b INTEGER PRIMARY KEY); CREATE TABLE c (b REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
    await database.write(lambda db: db.execute(tables))
    before = database.state
    with pytest.raises(apsw.Error):
        await database.write(lambda db: db.execute("INSERT INTO c VALUES (1)"))
    assert database.state not in (None, before)
    await sieve.allowed(1, RED)
    assert len(looked_up) == 1


async def test_while_a_commit_is_under_way_nothing_is_remembered(
    database: Database, looked_up: list[tuple[int, Filter]]
) -> None:
    sieve = Sieve(database, SIZE)
    await sieve.allowed(1, RED)
    database.state = None
    await sieve.allowed(1, RED)
    await sieve.allowed(1, RED)
    assert len(looked_up) == 3


async def test_without_memory_each_search_looks(database: Database, looked_up: list[tuple[int, Filter]]) -> None:
    sieve = Sieve(database, 0)
    await sieve.allowed(1, RED)
    await sieve.allowed(1, RED)
    assert len(looked_up) == 2


async def test_a_filtered_search_sees_new_metadata_new_documents_and_deletions(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:

        async def red() -> set[str]:
            found = await service.search("words", filter={"colour": "red"})
            return {hit["document_id"] for hit in found["hits"]}

        await service.ingest({"id": "a", "text": "words", "metadata": {"colour": "red"}})
        assert await red() == await red() == {"a"}
        await service.ingest({"id": "b", "text": "more words", "metadata": {"colour": "red"}})
        assert await red() == await red() == {"a", "b"}
        await service.ingest({"id": "a", "text": "words", "metadata": {"colour": "blue"}})
        assert await red() == await red() == {"b"}
        await service.client.delete("/documents/b")
        assert await red() == await red() == set()
