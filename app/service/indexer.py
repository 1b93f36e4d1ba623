"""Makes waiting documents searchable: embed → publish in the truth → index. One task per collection.

While one round is published the next is embedded already, and where much waits the one after it is in line, so that the
model waits for neither disk nor tokenizer. All of it can be interrupted anywhere: what waits is in the truth, and is
taken up again at the next start.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import apsw
import numpy as np
import structlog

from app.background import Background
from app.errors import NoSpace, Unavailable, WinnowError
from app.service.indexes import Indexes
from app.stages.embed import Embedder
from app.stages.weigh import Weigher
from app.stores import log as changelog
from app.stores.log import Waiting
from app.stores.sqlite import Database
from app.telemetry import Lap, Metrics, Stopwatch
from app.types import Collection
from models.types import ModelError, SparseVector, TokenVectors, Vectors

logger = structlog.get_logger()

ROUND_CHUNKS, MOST_CHUNKS = 64, 4096
"""Chunks that are published at once, at first and at the most."""
ROUND_SECONDS = 1.0
"""What a round should take: what waits is found soon, and a fast encoder does not make an index commit all the time."""

MOST_BEGUN = 2
"""Rounds that are being embedded at once: with one, the model rests while the next is read and tokenized."""

TIDY_SECONDS = 1.0
STRETCH_SECONDS = 60.0
"""How long it goes on without saving or compacting anything while more and more waits."""
FIRST_RETRY, LAST_RETRY = 0.5, 30.0
ROOM_RETRY = 5.0
"""The longest pause where the disk is full."""


@dataclass(frozen=True, slots=True)
class _Round:
    """Versions that wait, and their vectors."""

    batch: Sequence[Waiting]
    vectors: Vectors
    sparse: Sequence[SparseVector]
    """Empty in a collection that has none."""
    tokens: Sequence[TokenVectors]
    """Likewise."""
    watch: Stopwatch

    @property
    def chunks(self) -> list[int]:
        return [chunk for version in self.batch for chunk in version.chunks]

    @property
    def texts(self) -> list[str]:
        return _texts(self.batch)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Versions that wait, and their vectors to come."""

    batch: Sequence[Waiting]
    embedded: asyncio.Task[_Round]


class Indexer:
    """Embeds what waits and keeps the indexes in step."""

    def __init__(
        self,
        database: Database,
        collection: Collection,
        embedder: Embedder,
        indexes: Indexes,
        metrics: Metrics,
        threads: Executor,
        weigher: Weigher | None = None,
    ) -> None:
        self._database = database
        self._collection = collection
        self._embedder = embedder
        self._weigher = weigher
        self._indexes = indexes
        self._metrics = metrics
        self._threads = threads
        self._round = ROUND_CHUNKS
        self._woken = asyncio.Event()
        self._moved = asyncio.Condition()
        self._measuring = asyncio.Lock()
        self._task = Background("indexer", metrics, collection)
        self._counter = Background("counter", metrics, collection)
        self._to_save = False
        self._ended: WinnowError | None = None
        self.trouble: str | None = None
        """Why nothing moves at present, if nothing does."""

    def start(self) -> None:
        self._woken.set()
        self._task.start(self._run)
        self._counter.start(self._count)

    def wake(self) -> None:
        """Something waits, or was deleted."""
        self._woken.set()

    async def save(self) -> None:
        """Have the indexes saved as soon as no round is under way."""
        self._to_save = True
        self.wake()
        async with self._moved:
            await self._moved.wait_for(lambda: not self._to_save or self._ended is not None)

    async def settled(self, through: int) -> None:
        """Wait until every version up to this one can be found or has failed."""
        number = self._collection.number
        async with self._moved:
            while not await self._database.read(lambda db: changelog.is_settled(db, number, through)):
                if self._ended is not None:
                    raise self._ended
                await self._moved.wait()

    async def close(self, why: WinnowError | None = None) -> None:
        """Stop; whoever waits for documents is told why."""
        await self._task.close()
        await self._counter.close()
        self._ended = why or Unavailable("The service is stopping.")
        await self._tell()

    async def _run(self) -> None:
        pause = FIRST_RETRY
        while True:
            try:
                await self._work()
                self.trouble, pause = None, FIRST_RETRY
            except NoSpace:  # readiness tells of the disk, for all collections together
                self._woken.set()
                self._round = ROUND_CHUNKS
                await asyncio.sleep(pause)
                pause = min(2 * pause, ROOM_RETRY)
            except Exception as error:  # whatever it is: what waits must not wait for ever, and in silence
                self.trouble = str(error)
                logger.exception("indexing is stuck", collection=self._collection.name, retry_in=pause)
                self._woken.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_RETRY)

    async def _work(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(TIDY_SECONDS):  # wait_for loses a cancellation that comes with the event
                await self._woken.wait()
        self._woken.clear()
        await self._indexes.follow()
        await self._save()
        until = monotonic() + STRETCH_SECONDS
        while batch := await self._waiting():
            await self._take_all(batch, until)
            if monotonic() > until:
                self._woken.set()
                break
        await self._tell()  # what waited may also have been deleted
        await self._indexes.tidy()

    async def _take_all(self, batch: Sequence[Waiting], until: float) -> None:
        """These and, for so long, what waits behind them."""
        line, began = deque([self._begin(batch)]), monotonic()
        try:
            while line:
                await self._extend(line, until, least=self._round)
                await asyncio.wait([line[0].embedded])
                await self._extend(line, until, least=1)
                done = line.popleft()
                await self._take(done.batch, done.embedded)
                chunks, ended = _size(done.batch), monotonic()
                self._round, began = next_round(self._round, chunks, ended - began), ended
                await self._save()
        finally:
            for begun in line:
                begun.embedded.cancel()
            await asyncio.gather(*(begun.embedded for begun in line), return_exceptions=True)

    async def _extend(self, line: deque[_Begun], until: float, least: int) -> None:
        """Have what waits behind the last round embedded, where it comes to so many chunks."""
        if len(line) < MOST_BEGUN and monotonic() < until:
            following = await self._waiting(after=line[-1].batch[-1].version)
            if _size(following) >= least:
                line.append(self._begin(following))

    def _begin(self, batch: Sequence[Waiting]) -> _Begun:
        return _Begun(batch, asyncio.create_task(self._embed(batch)))

    async def _save(self) -> None:
        if self._to_save:
            await self._indexes.save()
            self._to_save = False
            await self._tell()

    async def _take(self, batch: Sequence[Waiting], embedded: Awaitable[_Round]) -> None:
        """Make these searchable; if the model fails on them together, find the one that it fails on."""
        try:
            await self._publish(await embedded)
        except ModelError as error:
            if len(batch) == 1:
                await self._fail(batch[0], error)
            else:
                half = len(batch) // 2
                for part in (batch[:half], batch[half:]):
                    await self._take(part, self._embed(part))
        await self._tell()

    async def _tell(self) -> None:
        """Let those who wait look again."""
        async with self._moved:
            self._moved.notify_all()

    async def _embed(self, batch: Sequence[Waiting]) -> _Round:
        self._database.room.require()
        watch, texts = Stopwatch(self._metrics, "ingest"), _texts(batch)
        with watch.stage("embed") as lap:
            vectors, tokens = await self._vectors(texts, lap)
        return _Round(batch, vectors, await self._weigh(texts, watch), tokens, watch)

    async def _vectors(self, texts: Sequence[str], lap: Lap) -> tuple[Vectors, Sequence[TokenVectors]]:
        """With those of tokens, in a collection that has them."""
        if self._collection.late:
            return await self._embedder.wholes(texts, self._threads, lap)
        return await self._embedder.documents(texts, self._threads, lap), ()

    async def _publish(self, done: _Round) -> None:
        with done.watch.stage("index"):
            await self._indexes.add_ahead(done.chunks, done.texts, done.vectors, done.sparse)
        ends = np.cumsum([len(version.chunks) for version in done.batch])

        def publish(db: apsw.Connection) -> None:
            for version, end in zip(done.batch, ends.tolist(), strict=True):
                part = slice(end - len(version.chunks), end)
                vectors, sparse, tokens = done.vectors[part], done.sparse[part], done.tokens[part]
                changelog.publish(db, self._collection.number, version, vectors, sparse, tokens)

        with done.watch.stage("publish"):
            await self._database.write(publish)
        with done.watch.stage("index"):
            await self._indexes.follow()
        await self._measure()

    async def _weigh(self, texts: Sequence[str], watch: Stopwatch) -> Sequence[SparseVector]:
        """Sparse vectors, in a collection that has them."""
        if self._weigher is None:
            return ()
        with watch.stage("weigh") as lap:
            return await self._weigher.documents(texts, self._threads, lap)

    async def _fail(self, version: Waiting, error: ModelError) -> None:
        logger.error("document can't be embedded", collection=self._collection.name, error=error)
        self._metrics.documents.labels("failed").inc()
        await self._database.write(lambda db: changelog.fail(db, version.version, str(error)))

    async def _waiting(self, after: int = 0) -> list[Waiting]:
        """The next round."""
        number = self._collection.number
        return await self._database.read(lambda db: changelog.waiting(db, number, self._round, after))

    async def _count(self) -> None:
        """Whatever a round does meanwhile: what waits while indexing is stuck is what somebody should hear of."""
        while True:
            await self._measure()
            await asyncio.sleep(TIDY_SECONDS)

    async def _measure(self) -> None:
        async with self._measuring:  # of two at once the older figure might be told last
            lag = await self._database.read(lambda db: changelog.lag(db, self._collection.number))
            name, index = self._collection.name, self._indexes.dense.index
            self._metrics.index_lag.labels(name).set(lag)
        self._metrics.index_chunks.labels(name).set(len(index))
        self._metrics.index_deleted.labels(name).set(index.deleted)
        self._metrics.index_bytes.labels(name).set(index.nbytes)


def _size(batch: Sequence[Waiting]) -> int:
    """In chunks."""
    return sum(len(version.chunks) for version in batch)


def _texts(batch: Sequence[Waiting]) -> list[str]:
    return [text for version in batch for text in version.texts]


def next_round(size: int, chunks: int, seconds: float) -> int:
    """How many chunks fit into a round, after one of this size took so many in so long."""
    if chunks < size and seconds < ROUND_SECONDS:  # not full: most of it was fixed cost
        return size
    fitting = int(chunks * ROUND_SECONDS / max(seconds, 1e-9))
    return max(ROUND_CHUNKS, min(fitting, 2 * size, MOST_CHUNKS))
