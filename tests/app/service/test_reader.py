"""Chunks are read ahead once, and a search says the same whether they were or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from app.service.reader import ROUND_CHUNKS, Reader
from app.stores import collections, documents, jobs, readings
from app.stores.rows import number
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Chunk, Collection, Document, Reading, Recipe
from models.fake import FakeReranker
from models.types import Ids
from tests.app.serving import documents as numbered
from tests.app.serving import fakes, serving, until

COUNT = "SELECT count(*) FROM readings WHERE tokenisation = ?"


class OtherReranker(FakeReranker):
    """With a tokenizer that is marked otherwise."""

    tokenisation = b"an other"


@dataclass
class Counting(FakeReranker):
    """Knows how many texts it has read, and fails on one word."""

    texts: list[str] = field(default_factory=list)
    fails_on: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def read(self, texts: Sequence[str]) -> list[Ids]:
        self.texts += texts
        if self.fails_on and any(self.fails_on in text for text in texts):
            raise RuntimeError("this text cannot be read")
        return super().read(texts)


@dataclass(frozen=True)
class Bench:
    database: Database
    collection: Collection
    threads: ThreadPoolExecutor

    async def put(self, amount: int, reranker: FakeReranker | None = None, word: str = "words") -> None:
        """Documents of two chunks, read by a reranker or by none."""

        def split(document: Document) -> Sequence[Chunk]:
            texts = [f"{document.text} {part}" for part in range(2)]
            made = [Reading(reranker.tokenisation, ids) for ids in reranker.read(texts)] if reranker else [None, None]
            return [
                Chunk(0, len(document.text), text, 2, reading=reading)
                for text, reading in zip(texts, made, strict=True)
            ]

        def fill(db: apsw.Connection) -> None:
            job, _ = jobs.begin(db, self.collection.number)
            for each in range(amount):
                documents.put(db, self.collection.number, job, Document(f"{word} {each}", f"{word} {each}"), split)

        await self.database.write(fill)

    async def read(self, reranker: FakeReranker) -> None:
        """Let a reader come to its end."""
        await Reader(self.database, self.collection, reranker, self.threads, Metrics()).run()

    async def count(self, tokenisation: bytes) -> int:
        return await self.database.read(lambda db: number(db, COUNT, (tokenisation,)))


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        database = Database(folder / "winnow.db")
        stack.callback(database.close)
        collection = await database.write(
            lambda db: collections.insert(db, "default", "fake", "fake", Recipe(), 8, "print", "english")
        )
        yield Bench(database, collection, threads)


async def test_chunks_from_before_are_read_in_rounds_and_then_never_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        await at.put(ROUND_CHUNKS)
        await at.put(3, FakeReranker(), "read")
        first, second = Counting(), Counting()
        await at.read(first)
        assert len(first.texts) == len(set(first.texts)) == 2 * ROUND_CHUNKS
        assert await at.count(FakeReranker.tokenisation) == 2 * ROUND_CHUNKS + 6
        await at.read(second)
        assert second.texts == []


async def test_another_tokenizers_readings_are_made_anew_and_the_first_one_knows_that_its_own_are_gone(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as at:
        await at.put(5, FakeReranker())
        await at.read(FakeReranker())
        await at.read(OtherReranker())
        assert (await at.count(FakeReranker.tokenisation), await at.count(OtherReranker.tokenisation)) == (0, 10)
        again = Counting()
        await at.read(again)
        assert len(again.texts) == 10


async def test_what_another_reader_began_to_replace_is_made_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        await at.put(2 * ROUND_CHUNKS, FakeReranker())
        await at.read(FakeReranker())
        other = Reader(at.database, at.collection, OtherReranker(), at.threads, Metrics())
        other.start()
        await until(lambda: held(tmp_path, beside=FakeReranker.tokenisation) > 0)
        await other.close()
        await at.read(FakeReranker())
        assert await at.count(FakeReranker.tokenisation) == 4 * ROUND_CHUNKS


async def test_a_reader_that_is_stopped_leaves_the_rest_to_the_next_one(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        await at.put(3 * ROUND_CHUNKS)
        reader, second = Reader(at.database, at.collection, FakeReranker(), at.threads, Metrics()), Counting()
        reader.start()
        await until(lambda: held(tmp_path) > 0)
        await reader.close()
        done = held(tmp_path)
        await at.read(second)
        assert len(second.texts) <= 6 * ROUND_CHUNKS - done
        assert await at.count(FakeReranker.tokenisation) == 6 * ROUND_CHUNKS


async def test_a_text_that_cannot_be_read_ends_the_reading_and_nothing_else(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        await at.put(1, word="fine")
        await at.put(1, word="poison")
        await at.read(Counting(fails_on="poison"))
        assert await at.database.read(lambda db: readings.complete(db, at.collection.number)) is None
        await at.read(FakeReranker())
        assert await at.count(FakeReranker.tokenisation) == 4


def held(folder: Path, beside: bytes = b"") -> int:
    """How many readings a service has, beside those of one tokenizer."""
    with closing(apsw.Connection(str(folder / "winnow.db"))) as db:
        return number(db, "SELECT count(*) FROM readings WHERE tokenisation <> ?", (beside,))


def change(folder: Path, *statements: str) -> None:
    """Behind a service's back."""
    with closing(apsw.Connection(str(folder / "winnow.db"))) as db:
        for statement in statements:
            db.execute(statement)


FORGET = "DELETE FROM readings", "UPDATE collections SET tokenisation = NULL"


@pytest.mark.parametrize("reranker", ["fake", "embedded"])
@pytest.mark.parametrize("policy", ["report", "window"])
async def test_a_search_says_the_same_with_and_without_readings(tmp_path: Path, reranker: str, policy: str) -> None:
    async with serving(fakes(tmp_path, reranker=reranker, chunk_tokens=128)) as service:
        given = [{"id": f"d{n}", "title": f"On {n}", "text": f"the {n}th bank of the river. " * 40} for n in range(3)]
        chunks = sum(each["chunks"] for each in (await service.ingest(*given))["documents"])
        query = "which bank " * 250
        with_readings = await service.search(query, on_truncation=policy)
        assert held(tmp_path) == chunks > 3
        change(tmp_path, *FORGET)
        without = await service.search(query, on_truncation=policy)
        assert with_readings["hits"] == without["hits"]
        assert any("window" in hit for hit in without["hits"]) == (policy == "window")


async def test_a_service_reads_after_its_start_what_was_not_read_before(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*numbered(12))
    assert held(tmp_path) == 12
    change(tmp_path, *FORGET)
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "late", "text": "comes in meanwhile"})
        await until(lambda: held(tmp_path) == 13)
        assert (await service.client.delete("/collections/default")).status_code == 204
    assert held(tmp_path) == 0


async def test_a_search_reads_what_was_kept_and_nothing_of_another_tokenizer(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "a", "text": "river bank"})

        async def score() -> float:
            (hit,) = (await service.search("river bank"))["hits"]
            return float(hit["stages"]["rerank"]["score"])

        before = await score()
        change(tmp_path, "UPDATE readings SET ids = x''")
        assert await score() == 0 < before
        change(tmp_path, "UPDATE readings SET tokenisation = x'00'")
        assert await score() == before
