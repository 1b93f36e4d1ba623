"""Keeps a standby in step: whatever happens to a document of the collection that it follows happens to its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from math import inf
from time import monotonic

import structlog

from app.background import Background
from app.errors import InvalidDocuments, NoSpace
from app.service.indexer import Indexer
from app.stages.chunk import Chunker
from app.stores import documents, log, standby
from app.stores.sqlite import Database
from app.stores.standby import Stale
from app.telemetry import Metrics
from app.types import Chunk, Collection, Document

logger = structlog.get_logger()

AT_ONCE = 32
"""Documents that are taken over in one transaction: others want to write too."""

MOST_WAITING = 512
"""Documents that wait for the standby's encoder; what is taken over next waits in the collection that is followed."""

TELL_SECONDS = 2.0

PAUSE_SECONDS = 0.5
"""Between two looks when there was nothing to do."""

ROOM_SECONDS = 5.0
FIRST_RETRY, LAST_RETRY = 0.5, 30.0

Split = Mapping[int, Sequence[Chunk] | str]
"""A document's chunks, by its object; or why there are none."""


class Copier:
    """Chunks documents for the standby's models and puts them where its indexer finds them."""

    def __init__(
        self,
        database: Database,
        collection: Collection,
        chunker: Chunker,
        indexer: Indexer,
        metrics: Metrics,
        threads: Executor,
    ) -> None:
        self._database = database
        self._collection = collection
        self._chunker = chunker
        self._indexer = indexer
        self._metrics = metrics
        self._threads = threads
        self._hurry = asyncio.Event()
        self._task = Background("copier", metrics, collection)
        self._told = -inf
        self.trouble: str | None = None
        """Why nothing is taken over at present, if nothing is."""

    def start(self) -> None:
        self._task.start(self._run)

    async def close(self) -> None:
        await self._task.close()

    def hurry(self) -> None:
        """Somebody waits for it."""
        self._hurry.set()

    async def _run(self) -> None:
        pause = FIRST_RETRY
        while True:
            try:
                await self._tell()
                if not await self._take_over():
                    await self._rest()
                self.trouble, pause = None, FIRST_RETRY
            except NoSpace:
                await asyncio.sleep(ROOM_SECONDS)
            except Exception as error:  # whatever it is: the collection that is followed goes on
                self.trouble = f"it does not take documents over: {error}"
                logger.exception("standby is stuck", collection=self._collection.name, retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_RETRY)

    async def _tell(self) -> None:
        """How much there is to do, now and then: to count a million takes its time."""
        if monotonic() - self._told > TELL_SECONDS:
            behind = await self._database.read(lambda db: standby.behind(db, self._collection.number))
            self._metrics.standby_behind.labels(self._collection.name).set(behind)
            self._told = monotonic()

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_SECONDS):
                await self._hurry.wait()
        self._hurry.clear()

    async def _take_over(self) -> bool:
        """The next documents; says whether there were any that could be taken."""
        number, followed = self._collection.number, self._collection.follows
        if followed is None:  # a switch has just ended it
            return False
        stale, waiting = await self._database.read(
            lambda db: (standby.stale(db, number, followed, AT_ONCE), log.lag(db, number))
        )
        if not stale or waiting >= MOST_WAITING:
            return False
        chunks = await self._chunk(stale)

        def split(document: Document) -> Sequence[Chunk] | str:
            return chunks[id(document)] if id(document) in chunks else self._split(document)

        await self._database.write(lambda db: standby.take_over(db, number, stale, split))
        self._indexer.wake()
        return True

    async def _chunk(self, stale: Sequence[Stale]) -> Split:
        """Of those whose content is not held already."""
        number, held = self._collection.number, [each.held.document for each in stale if each.held]
        ids = [document.id for document in held]
        known = await self._database.read(lambda db: documents.known_contents(db, number, ids))
        fresh = [each for each in held if documents.content_hash(each) not in known.get(each.id, ())]
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: {id(document): self._split(document) for document in fresh}
        )

    def _split(self, document: Document) -> Sequence[Chunk] | str:
        try:
            return self._chunker.split(document)
        except InvalidDocuments as error:
            return " ".join([str(error), *(f"{fault.pointer} {fault.detail}." for fault in error.faults)])
