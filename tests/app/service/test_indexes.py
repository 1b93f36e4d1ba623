"""The log is kept for whichever index still needs it, also for one that is being built anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, ParamSpec, TypeVar

import apsw
import numpy as np
import pytest
from structlog.testing import capture_logs

from app.errors import Unavailable
from app.service.follower import REPLAY, Follower, Workers
from app.service.indexes import Indexes, Kind, View
from app.stores import collections, documents
from app.stores import log as changelog
from app.stores.hnsw import HnswIndex
from app.stores.lexical import TantivyIndex
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Change, Chunk, Collection, Document, Recipe, Wording
from models.types import SparseVector, Vectors
from tests.app.serving import PATIENCE, fakes

DIMENSIONS = 8

KINDS: list[Kind] = ["dense", "lexical", "sparse"]

MANY = REPLAY + 76
"""Chunks whose index is built anew by the threads for what takes long."""

TERMS = SparseVector(np.array([7], np.int32), np.ones(1, np.float32))

P = ParamSpec("P")
T = TypeVar("T")


class Held(ThreadPoolExecutor):
    """A thread that does its work at once, and is not done before it is let go."""

    def __init__(self) -> None:
        super().__init__(1)
        self.reached, self.let_go = Event(), Event()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        def work(*args: Any, **kwargs: Any) -> T:
            done = fn(*args, **kwargs)
            self.reached.set()
            assert self.let_go.wait(PATIENCE)
            return done

        return super().submit(work, *args, **kwargs)


def vectors(count: int, seed: int) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS))
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


@dataclass(frozen=True)
class Bench:
    """The indexes of a collection, without anyone who works on them."""

    database: Database
    collection: Collection
    indexes: Indexes
    rebuilding: Held
    stopping: Event

    async def publish(self, name: str, chunks: int) -> None:
        """A document of so many chunks, which the indexes then have."""
        number = self.collection.number

        def split(document: Document) -> list[Chunk]:
            return [Chunk(0, len(document.text), f"{document.text} {n}", 2) for n in range(chunks)]

        def publish(db: apsw.Connection) -> None:
            version = documents.put(db, number, None, Document(name, name), split).version
            (waiting,) = changelog.waiting(db, number, chunks, version - 1)
            changelog.publish(db, number, waiting, vectors(chunks, version), [TERMS] * chunks)

        await self.database.write(publish)
        await self.indexes.follow()

    async def delete(self, name: str) -> None:
        await self.database.write(lambda db: documents.delete(db, self.collection.number, [name]))
        await self.indexes.follow()

    async def begin_anew(self, kind: Kind) -> View:
        """An index whose new one has read the truth, and is not there yet."""
        view = self.indexes.view(kind)
        assert view
        self.indexes.renew([kind])
        assert await asyncio.to_thread(self.rebuilding.reached.wait, PATIENCE)
        return view

    async def put_in_place(self, view: View) -> None:
        self.rebuilding.let_go.set()
        await view.renewal.end()
        await self.indexes.tidy()

    async def forget(self) -> None:
        """The whole log."""
        number = self.collection.number
        await self.database.write(lambda db: changelog.prune(db, number, changelog.head(db, number)))

    async def floor(self) -> int:
        return await self.database.read(lambda db: changelog.floor(db, self.collection.number))

    @property
    def held(self) -> list[int]:
        """How many chunks each index has."""
        views = [self.indexes.view(kind) for kind in KINDS]
        return [len(view.index) for view in views if view]


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """On what is in a folder, or on nothing yet."""
    async with AsyncExitStack() as stack:
        threads, rebuilding = stack.enter_context(ThreadPoolExecutor(2)), stack.enter_context(Held())
        stack.callback(rebuilding.let_go.set)
        database = Database(folder / "winnow.db")
        stack.callback(database.close)
        (collection,) = await database.read(collections.every) or [await database.write(insert)]
        workers = Workers(threads, rebuilding, stopping := Event())
        indexes = Indexes(database, collection, folder / "index", fakes(folder), Metrics(), workers)
        if await database.read(lambda db: changelog.count_living(db, collection.number)):
            rebuilding.let_go.set()  # the index of terms is built at every start
        await indexes.open()
        stack.push_async_callback(indexes.close)
        stack.callback(rebuilding.let_go.set)
        yield Bench(database, collection, indexes, rebuilding, stopping)


def insert(db: apsw.Connection) -> Collection:
    models, sparse = ("fake", "fake", Recipe(), DIMENSIONS, "print"), ("fake", "sparse print")
    return collections.insert(db, "default", *models, "english", *sparse)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_comes_in_while_an_index_is_built_anew_is_in_it_also_after_a_restart(
    tmp_path: Path, kind: Kind
) -> None:
    async with bench(tmp_path) as at:
        await at.publish("first", MANY)
        view = await at.begin_anew(kind)
        old = view.index
        await at.publish("late", 5)
        await at.indexes.save()  # as a backup does
        await at.indexes.tidy()
        await at.put_in_place(view)
        assert view.index is not old
        assert at.held == [MANY + 5] * 3
        await at.publish("last", 1)
    async with bench(tmp_path) as at:
        assert at.held == [MANY + 6] * 3


async def test_the_log_is_forgotten_once_no_index_is_built_anew_any_more(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        await at.publish("first", MANY)
        view = await at.begin_anew("lexical")
        await at.indexes.save()
        await at.indexes.tidy()
        assert await at.floor() == 0
        await at.put_in_place(view)
        assert await at.floor() == MANY


@pytest.mark.parametrize("kind", KINDS)
async def test_an_index_built_anew_that_the_log_no_longer_reaches_back_to_is_given_up(
    tmp_path: Path, kind: Kind
) -> None:
    async with bench(tmp_path) as at:
        await at.publish("first", MANY)
        view = await at.begin_anew(kind)
        old = view.index
        await at.publish("late", 5)
        await at.forget()
        with capture_logs() as lines:
            await at.put_in_place(view)
        assert any("given up" in line["event"] for line in lines)
        assert view.index is old
        assert at.held == [MANY + 5] * 3
        at.indexes.renew([kind])
        await at.put_in_place(view)
        assert view.index is not old
        assert at.held == [MANY + 5] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_an_index_of_nothing_is_put_in_place_though_the_log_has_forgotten_what_was_there(
    tmp_path: Path, kind: Kind
) -> None:
    async with bench(tmp_path) as at:
        await at.publish("first", 10)
        await at.delete("first")
        await at.forget()
        view = at.indexes.view(kind)
        assert view
        old = view.index
        at.indexes.renew([kind])
        await at.put_in_place(view)
        assert view.index is not old
        await at.publish("last", 3)
        assert at.held == [3] * 3


@pytest.mark.parametrize("kind", ["dense", "lexical"])
async def test_an_index_that_is_ahead_of_the_truth_is_not_kept_as_it_is(tmp_path: Path, kind: Kind) -> None:
    """What was added ahead may never be published, and the next start would take it for what the truth has."""
    async with bench(tmp_path) as at:
        await at.publish("first", 5)
        view = at.indexes.view(kind)
        assert view
        before = view.saved
        await at.indexes.add_ahead([99], ["a stray"], vectors(1, 99), [TERMS])
        await at.indexes.save()
        assert view.saved == before
        await at.indexes.follow()
        await at.indexes.save()
        assert view.saved == view.index.sequence > before
        assert at.held == [5] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_that_stops_waits_for_no_index_to_be_built_anew(tmp_path: Path, kind: Kind) -> None:
    async with bench(tmp_path) as at:
        await at.publish("first", MANY)
        at.rebuilding.let_go.set()
        at.stopping.set()
        at.indexes.renew([kind])
        view = at.indexes.view(kind)
        assert view
        await view.renewal.end()
        with pytest.raises(Unavailable, match="stops while an index is being rebuilt"):
            view.renewal.built()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_built_anew_ends_and_leaves_nothing_when_its_collection_is_dropped(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, told, tell = Event(), Event(), Follower._tell

    def tell_at_last(follower: Follower[Any], done: int, total: int) -> None:
        begun.set()
        assert told.wait(PATIENCE)
        tell(follower, done, total)

    async with bench(tmp_path) as at:
        at.rebuilding.let_go.set()
        await at.publish("first", MANY)
        monkeypatch.setattr(Follower, "_tell", tell_at_last)
        at.indexes.renew([kind])
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        dropping = asyncio.create_task(at.indexes.discard())
        await asyncio.sleep(0.1)
        assert not dropping.done()
        told.set()
        await dropping
        assert not at.indexes.is_renewing
        assert not (tmp_path / "index").exists()


async def test_what_waits_for_a_thread_to_be_built_anew_is_not_waited_for_when_its_collection_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.follower.GIVE_UP_SECONDS", 0.05)
    async with bench(tmp_path) as at:
        await at.publish("first", MANY)
        await at.begin_anew("dense")
        at.indexes.renew(["lexical"])
        await at.indexes.discard()
        assert not at.rebuilding.let_go.is_set()
        assert not (tmp_path / "index").exists()


async def test_nothing_is_tried_again_while_one_index_still_takes_in_what_another_failed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is withdrawn before it is there would stay for good."""
    let_go, apply, write = Event(), HnswIndex.apply, TantivyIndex.apply

    def apply_at_last(index: HnswIndex, changes: Sequence[Change]) -> None:
        if any(change.vector is not None for change in changes):
            assert let_go.wait(PATIENCE)
        apply(index, changes)

    def full(index: TantivyIndex, changes: Sequence[Wording]) -> None:
        if any(change.text is not None for change in changes):
            raise OSError("no room")
        write(index, changes)

    async with bench(tmp_path) as at:
        monkeypatch.setattr(HnswIndex, "apply", apply_at_last)
        with monkeypatch.context() as patched:
            patched.setattr(TantivyIndex, "apply", full)
            adding = asyncio.create_task(at.indexes.add_ahead([1], ["gone by now"], vectors(1, 1), [TERMS]))
            await asyncio.wait([adding], timeout=0.2)
            trying = asyncio.create_task(retried(adding, at.indexes))
            await asyncio.wait([trying], timeout=0.2)
        let_go.set()
        await trying
        await at.indexes.follow()
        assert at.held == [0, 0, 0]


async def retried(adding: asyncio.Task[None], indexes: Indexes) -> None:
    """As an indexer does: once it has failed, what is there is brought up to the truth."""
    with pytest.raises(OSError, match="no room"):
        await adding
    await indexes.follow()
