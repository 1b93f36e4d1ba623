"""Chunks that came before their ids were kept, or that another reranker has read, are read in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from time import monotonic

import structlog

from app.background import Background
from app.errors import NoSpace
from app.stores import readings
from app.stores.readings import Unread
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection, Reading
from models.types import Reranker

logger = structlog.get_logger()

ROUND_CHUNKS = 256
ROOM_SECONDS = 10.0
"""Pause where the disk is full."""
RESTING = 3
"""How long it rests after each round, as a multiple of what that took: searches and ingest have the cores."""


class Reader:
    """Sees to it, after each start, that all chunks of a collection have been read by its reranker's tokenizer.

    Until they have, searches tokenise the others themselves, and what is taken in meanwhile brings its ids along.
    """

    def __init__(
        self, database: Database, collection: Collection, reranker: Reranker, threads: Executor, metrics: Metrics
    ) -> None:
        self._database = database
        self._collection = collection
        self._reranker = reranker
        self._threads = threads
        self._task = Background("reader", metrics, collection)

    def start(self) -> None:
        self._task.start(self.run)

    async def close(self) -> None:
        await self._task.close()

    async def run(self) -> None:
        """Read what is unread, and end."""
        while True:
            try:
                return await self._read_unread()
            except NoSpace:
                await asyncio.sleep(ROOM_SECONDS)
            except Exception:  # whatever it is: searches do without, and the next start tries again
                logger.exception("chunks are not read ahead", collection=self._collection.name)
                return None

    async def _read_unread(self) -> None:
        if await self._database.read(lambda db: readings.complete(db, self._number)) != self._tokenisation:
            await self._read_all()

    async def _read_all(self) -> None:
        """What was complete is not any more from the first new reading on, and complete again after the last one."""
        read, since = 0, ""
        await self._database.write(lambda db: readings.set_complete(db, self._number, None))
        while found := await self._next(since):
            began, since = monotonic(), found[-1].document
            await self._read(found)
            read += len(found)
            await asyncio.sleep(RESTING * (monotonic() - began))
        await self._database.write(lambda db: readings.set_complete(db, self._number, self._tokenisation))
        if read:
            logger.info("chunks were read ahead", collection=self._collection.name, chunks=read)

    async def _next(self, since: str) -> list[Unread]:
        return await self._database.read(
            lambda db: readings.unread(db, self._number, self._tokenisation, since, ROUND_CHUNKS)
        )

    async def _read(self, found: Sequence[Unread]) -> None:
        texts = [each.text for each in found]
        made = await asyncio.get_running_loop().run_in_executor(self._threads, self._reranker.read, texts)
        kept = [(each.chunk, Reading(self._tokenisation, ids)) for each, ids in zip(found, made, strict=True)]
        await self._database.write(lambda db: readings.insert(db, kept))

    @property
    def _number(self) -> int:
        return self._collection.number

    @property
    def _tokenisation(self) -> bytes:
        return self._reranker.tokenisation
