"""Ways to load chunks are compared on equal terms: none of them finds in memory what another has just read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.stores import collections, documents
from app.stores.sqlite import Database
from app.types import Chunk, ChunkIds, Document, Recipe
from loadtest import late, readings
from loadtest.readings import Clock
from models.fake import FakeEncoder, FakeReranker

CHUNKS = 2000


@pytest.fixture
async def database(tmp_path: Path) -> Any:
    opened = Database(tmp_path / "winnow.db")

    def fill(db: Any) -> None:
        collection = collections.insert(db, "tales", "fake", "fake", Recipe(), 512, "", "english")
        pieces = [Chunk(0, 1, "a", 1)] * CHUNKS
        documents.put(db, collection.number, None, Document("d", "a"), lambda _: pieces)

    await opened.write(fill)
    yield opened
    opened.close()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[int]]:
    """What was loaded, load by load."""
    told: list[frozenset[int]] = []

    def load(db: Any, collection: int, chunks: ChunkIds, *more: Any, **named: Any) -> list[Any]:
        told.append(frozenset(chunks.tolist()))
        return []

    monkeypatch.setattr(documents, "load", load)
    return told


async def test_what_is_loaded_with_tokens_was_not_loaded_without_before(
    database: Database, loaded: list[frozenset[int]]
) -> None:
    await database.read(lambda db: late.ask(db, FakeEncoder(late=True), 3, Clock()))
    assert len(loaded) == len(set(loaded)) == 2 * 3 * len(late.CANDIDATES)


async def test_what_is_loaded_for_its_ids_was_not_loaded_for_its_texts_before(
    database: Database, loaded: list[frozenset[int]]
) -> None:
    await database.read(lambda db: readings.ask(db, FakeReranker(), 3, Clock()))
    for search in range(3):
        of_texts, of_ids, again = loaded[3 * search : 3 * search + 3]
        assert of_texts != of_ids == again
