"""What waits becomes searchable, whatever the model does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batcher import Batcher
from app.device import Device
from app.errors import NoSpace, NotFound, WinnowError
from app.service.follower import Follower, Follows, Workers
from app.service.indexer import MOST_CHUNKS, ROUND_CHUNKS, ROUND_SECONDS, Indexer, next_round
from app.service.indexes import Indexes
from app.sharer import Memory, Sharer
from app.stages.embed import Embedder
from app.stores import collections, documents, jobs, log
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Chunk, Collection, Document, Job, Recipe
from models.fake import FakeEncoder
from models.types import Role, Tokens, Vectors
from tests.app.batching import sample
from tests.app.serving import fakes, nothing_embedded, until


def whole(document: Document) -> list[Chunk]:
    """One chunk that is the document."""
    return [Chunk(0, len(document.text), document.text, len(document.text.split()))]


class Held(FakeEncoder):
    """Tokenizes what it is given, and embeds none of it until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.read = Event(), 0

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        self.read += len(texts)
        return super().tokenize(texts, role)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        assert self.free.wait(10)
        return super().encode(batch)


@dataclass(frozen=True)
class Bench:
    """An indexer at work on a collection, without the service around it."""

    database: Database
    collection: Collection
    encoder: FakeEncoder
    indexes: Indexes
    indexer: Indexer
    metrics: Metrics

    @property
    def rounds(self) -> float:
        """How often something was published."""
        sample = {"pipeline": "ingest", "stage": "publish", "part": "compute"}
        return self.metrics.registry.get_sample_value("winnow_stage_seconds_count", sample) or 0.0

    async def put(self, *given: Document) -> tuple[str, int]:
        """The job, and the version through which to wait."""
        number = self.collection.number
        job, named = await self.database.write(lambda db: jobs.begin(db, number))

        def put_all(db: apsw.Connection) -> int:
            jobs.grow(db, job, named, number, len(given))
            return max(documents.put(db, number, job, each, whole).version for each in given)

        through = await self.database.write(put_all)
        self.indexer.wake()
        return named, through

    @property
    def lag(self) -> float:
        return sample(self.metrics, "winnow_index_lag_documents", collection=self.collection.name)

    async def job(self, named: str) -> Job:
        found = await self.database.read(lambda db: jobs.find(db, named))
        assert found is not None
        return found

    async def found(self) -> list[str]:
        """The texts that a search meets."""
        (vector,) = self.encoder.encode(self.encoder.tokenize(["words"], "query"))
        near = self.indexes.dense.index.search(vector, 9).chunks
        return [
            each.text for each in await self.database.read(lambda db: documents.load(db, self.collection.number, near))
        ]


@asynccontextmanager
async def bench(folder: Path, encoder: FakeEncoder, **more: int) -> AsyncIterator[Bench]:
    metrics, settings = Metrics(), fakes(folder, **more)
    async with AsyncExitStack() as stack:
        database = Database(folder / "winnow.db")
        stack.callback(database.close)
        threads = stack.enter_context(ThreadPoolExecutor(2))
        device = Device("test", 0.1, 60.0)
        stack.callback(device.close)
        batcher = Batcher("encoder", encoder.encode, device, metrics, 512, 512, 10_000, 60)
        sharer = Sharer(batcher, Memory(0), metrics)
        embedder = Embedder(encoder, sharer, sharer, batcher, metrics)
        collection = await database.write(
            lambda db: collections.insert(
                db, "default", "fake", "fake", Recipe(), encoder.dimensions, "print", "english"
            )
        )
        indexes = Indexes(database, collection, folder / "index", settings, metrics, Workers(threads, threads, Event()))
        await indexes.open()
        indexer = Indexer(database, collection, embedder, indexes, metrics, threads)
        indexer.start()
        stack.push_async_callback(indexer.close)
        yield Bench(database, collection, encoder, indexes, indexer, metrics)


def numbered(amount: int, text: str = "document {0}") -> Sequence[Document]:
    return [Document(f"d{i}", text.format(i)) for i in range(amount)]


async def test_a_document_that_the_model_fails_on_keeps_no_other_from_being_found(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(fail_on="poison")) as at:
        named, through = await at.put(*numbered(20), Document("bad", "some poison here"), *numbered(5, "more {0}"))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        job = await at.job(named)
        assert (job.state, job.failed, job.pending) == ("failed", 1, 0)
        assert job.error is not None
        assert "poison" in job.error
        assert len(at.indexes.dense.index) == 20
        stored = await at.database.read(lambda db: documents.find(db, at.collection.number, "bad"))
        assert stored is not None
        assert stored.state == "failed"
        assert stored.error == job.error
        assert at.indexer.trouble is None


async def test_a_version_that_fails_leaves_the_one_before_it_to_be_found(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(fail_on="poison")) as at:
        for text in ("good words", "poison", "better words"):
            _, through = await at.put(Document("a", text))
            await asyncio.wait_for(at.indexer.settled(through), 10)
            assert await at.found() == ["better words" if text.startswith("better") else "good words"]


async def test_what_was_added_ahead_and_failed_then_is_taken_back_and_keeps_no_index_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FakeEncoder()
    monkeypatch.setattr("app.service.indexer.FIRST_RETRY", 0.05)

    def break_off(*_: object) -> NoReturn:
        monkeypatch.undo()
        encoder._fail_on = "poison"
        raise NoSpace("The disk is full.")

    async with bench(tmp_path, encoder) as at:
        monkeypatch.setattr("app.service.indexer.changelog.publish", break_off)
        named, through = await at.put(Document("bad", "poison"))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert (await at.job(named)).state == "failed"
        encoder._fail_on = None
        _, through = await at.put(Document("a", "one"))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        await asyncio.wait_for(at.indexer.save(), 10)
        assert at.indexes.dense.saved == at.indexes.lexical.saved == await at.indexes.dense._follower.head()
        _, through = await at.put(Document("bad", "poison"))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert sorted(await at.found()) == ["one", "poison"]


async def test_giving_a_failed_document_again_tries_it_again(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(fail_on="poison")) as at:
        for _ in range(2):
            named, through = await at.put(Document("a", "poison"))
            await asyncio.wait_for(at.indexer.settled(through), 10)
            assert (await at.job(named)).state == "failed"
        assert len(at.encoder.calls) == 2


async def test_waiting_ends_when_what_it_waits_for_is_superseded_or_deleted(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(delay=0.2)) as at:
        await at.put(Document("first", "keeps the model busy"))
        _, through = await at.put(Document("a", "one"), Document("b", "two"))
        waiting = asyncio.create_task(at.indexer.settled(through))
        await at.put(Document("a", "another"))
        await at.database.write(lambda db: documents.delete(db, at.collection.number, ["b"]))
        at.indexer.wake()
        await asyncio.wait_for(waiting, 5)
        await until(lambda: len(at.indexes.dense.index) == 2)


async def test_whoever_waits_when_it_ends_is_told_why(tmp_path: Path) -> None:
    for why in (NotFound("dropped"), None):
        folder = tmp_path / str(why)
        await asyncio.to_thread(folder.mkdir)
        async with bench(folder, FakeEncoder(delay=0.3)) as at:
            _, through = await at.put(Document("a", "one"))
            waiting = asyncio.create_task(at.indexer.settled(through))
            await asyncio.sleep(0.05)
            await at.indexer.close(why)
            with pytest.raises(WinnowError, match="dropped" if why else "stopping"):
                await asyncio.wait_for(waiting, 5)


async def test_it_can_be_closed_at_the_very_moment_it_is_woken(tmp_path: Path) -> None:
    """`asyncio.wait_for` would lose the cancellation, and closing would never end."""
    async with bench(tmp_path, FakeEncoder()) as at:
        for _ in range(50):
            await asyncio.sleep(0.002)
            at.indexer.wake()
            await asyncio.wait_for(at.indexer.close(), 5)
            at.indexer.start()


async def test_a_fast_encoder_is_given_ever_larger_rounds(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder()) as at:
        _, through = await at.put(*numbered(40 * ROUND_CHUNKS))
        await asyncio.wait_for(at.indexer.settled(through), 30)
        assert at.rounds < 20
        assert len(at.indexes.dense.index) == 40 * ROUND_CHUNKS


async def test_what_a_slow_encoder_has_read_is_found_while_the_rest_waits(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(delay=0.6 * ROUND_SECONDS)) as at:
        first, rest = ROUND_CHUNKS, 2 * ROUND_CHUNKS
        _, through = await at.put(*numbered(first + rest, "eight words " * 4 + "{0}"))  # a batch holds 512 of them
        await until(lambda: at.rounds == 1)
        assert len(at.indexes.dense.index) == first
        await asyncio.wait_for(at.indexer.settled(through), 30)
        assert at.rounds == 3


async def test_snapshots_are_written_though_more_and_more_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.indexer.STRETCH_SECONDS", 0.1)
    async with bench(tmp_path, FakeEncoder(delay=0.05), snapshot_changes=ROUND_CHUNKS) as at:
        _, through = await at.put(*numbered(40 * ROUND_CHUNKS, "eight words " * 4 + "{0}"))
        await until(lambda: at.indexes.dense.saved > 0)
        number = at.collection.number
        assert not await at.database.read(lambda db: log.is_settled(db, number, through))
        assert at.indexes.lexical.saved >= at.indexes.dense.saved
        await asyncio.wait_for(at.indexer.settled(through), 30)
        assert len(at.indexes.dense.index) == 40 * ROUND_CHUNKS


async def test_while_one_round_is_published_the_next_is_embedded_and_no_more(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(delay=0.01)) as at:
        _, through = await at.put(*numbered(4 * ROUND_CHUNKS))
        free = Event()
        writer = asyncio.create_task(at.database.write(lambda db: free.wait(10)))
        await until(lambda: sum(at.encoder.calls) >= 2 * ROUND_CHUNKS)
        await asyncio.sleep(0.1)
        assert (at.rounds, sum(at.encoder.calls)) == (0, 2 * ROUND_CHUNKS)
        free.set()
        await writer
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert sum(at.encoder.calls) == len(at.indexes.dense.index) == 4 * ROUND_CHUNKS


@pytest.mark.parametrize(("more", "in_line"), [(2 * ROUND_CHUNKS, ROUND_CHUNKS), (ROUND_CHUNKS - 1, 0)])
async def test_behind_a_round_that_is_embedded_the_next_is_in_line_if_it_is_full_and_none_after_it(
    tmp_path: Path, more: int, in_line: int
) -> None:
    encoder = Held()
    async with bench(tmp_path, encoder) as at:
        _, through = await at.put(*numbered(ROUND_CHUNKS + more))
        await until(lambda: encoder.read == ROUND_CHUNKS + in_line)
        await asyncio.sleep(0.1)
        assert encoder.read == ROUND_CHUNKS + in_line
        encoder.free.set()
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert len(at.indexes.dense.index) == ROUND_CHUNKS + more


async def test_a_round_that_the_model_fails_on_leaves_the_one_ahead_as_it_is(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(fail_on="poison")) as at:
        bad = [Document(f"bad{i}", "some poison") for i in range(3)]
        named, through = await at.put(*bad, *numbered(3 * ROUND_CHUNKS))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        job = await at.job(named)
        assert (job.failed, job.pending, len(at.indexes.dense.index)) == (3, 0, 3 * ROUND_CHUNKS)


async def test_what_the_model_fails_on_is_found_without_asking_for_each_document(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder(fail_on="poison")) as at:
        named, through = await at.put(*numbered(30), Document("bad", "poison"), *numbered(33, "more {0}"))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert (await at.job(named)).failed == 1
        assert len(at.encoder.calls) < 15


@given(st.integers(ROUND_CHUNKS, MOST_CHUNKS), st.integers(1, 10_000), st.floats(0, 1000))
def test_a_round_keeps_its_bounds_grows_no_more_than_twofold_and_follows_the_speed(
    size: int, chunks: int, seconds: float
) -> None:
    following = next_round(size, chunks, seconds)
    assert ROUND_CHUNKS <= following <= min(MOST_CHUNKS, 2 * size)
    assert following <= size or (chunks >= size and seconds < ROUND_SECONDS * chunks / size)
    assert following == ROUND_CHUNKS or seconds < ROUND_SECONDS or following * seconds <= chunks * ROUND_SECONDS


@pytest.mark.parametrize("error", [RuntimeError("it broke"), NoSpace("The disk is full.")])
async def test_while_indexing_is_stuck_what_waits_is_counted(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr("app.service.indexer.FIRST_RETRY", 0.05)
    async with bench(tmp_path, FakeEncoder()) as at:
        with monkeypatch.context() as patched:
            patched.setattr(at.indexes, "add_ahead", fail)
            _, through = await at.put(*numbered(3))
            await until(lambda: at.lag == 3)
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert at.lag == 0


async def test_what_waits_is_counted_though_a_round_does_not_end(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder()) as at:
        with nothing_embedded():
            _, through = await at.put(*numbered(3))
            await until(lambda: at.lag == 3)
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert at.lag == 0


async def test_whether_something_waits_is_told_without_counting_all_that_does(tmp_path: Path) -> None:
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    def look(db: apsw.Connection) -> bool:
        db.set_progress_handler(step, 10)
        try:
            return log.is_settled(db, at.collection.number, through)
        finally:
            db.set_progress_handler(None)

    async with bench(tmp_path, FakeEncoder()) as at:
        with nothing_embedded():
            _, through = await at.put(*numbered(1000))
            assert not await at.database.read(look)
            assert steps < 20
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert await at.database.read(look)


async def test_deletions_are_followed_though_nothing_is_taken_in(tmp_path: Path) -> None:
    async with bench(tmp_path, FakeEncoder()) as at:
        _, through = await at.put(*numbered(10))
        await at.indexer.settled(through)
        await at.database.write(lambda db: documents.delete(db, at.collection.number, ["d1", "d2"]))
        at.indexer.wake()
        await until(lambda: len(at.indexes.dense.index) == 8)


async def test_documents_are_taken_in_though_others_are_deleted_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, FakeEncoder()) as at:
        _, through = await at.put(*numbered(100))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        loop, names, step = asyncio.get_running_loop(), [f"d{i}" for i in range(100)], Follower._step

        def delete(db: apsw.Connection) -> None:
            documents.delete(db, at.collection.number, [names.pop()] if names else [])

        def step_and_delete(follower: Follower[Any], index: Follows[Any]) -> bool:
            moved = step(follower, index)
            asyncio.run_coroutine_threadsafe(at.database.write(delete), loop).result(10)
            return moved

        monkeypatch.setattr(Follower, "_step", step_and_delete)
        await at.database.write(delete)
        _, through = await at.put(Document("new", "one more"))
        await asyncio.wait_for(at.indexer.settled(through), 10)
        assert len(names) > 50
