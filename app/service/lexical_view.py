"""A collection's lexical index as a view of the truth: opened or rebuilt, brought up to date, saved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Event
from typing import TypeVar

import apsw
import numpy as np
import structlog

from app.errors import Unavailable
from app.stores import lexical_folder
from app.stores import log as changelog
from app.stores.lexical import TantivyIndex
from app.stores.sqlite import Database
from app.types import Collection, LexicalIndex, Wording

T = TypeVar("T")

logger = structlog.get_logger()

REPLAY = 1024
"""Changes, or texts of a rebuild, that are read and applied at once."""

UNSAVED = 0


class LexicalView:
    """Follows the log of one collection. Only its owner's task changes it; any search may read `index`.

    The engine keeps its files itself, and merges them: there is nothing to compact.
    """

    def __init__(
        self, database: Database, collection: Collection, folder: Path, threads: Executor, stopping: Event
    ) -> None:
        self._database = database
        self._collection = collection
        self._folder = folder
        self._threads = threads
        self._stopping = stopping
        self._ahead: list[int] = []
        self._index = TantivyIndex(collection.language)
        self.saved = UNSAVED
        """The last change that is on disk."""

    @property
    def index(self) -> LexicalIndex:
        return self._index

    async def open(self) -> None:
        """Take what is on disk if it is whole and the log still reaches back to it; rebuild otherwise; catch up."""
        self._index, self.saved = await self._in_thread(self._open)
        await self.follow()
        if not await self._in_thread(self._agrees):
            self._warn("it does not hold what the truth does")
            self._index, self.saved = await self._in_thread(self._rebuild), UNSAVED

    async def add_ahead(self, chunks: Sequence[int], texts: Sequence[str]) -> None:
        """Add what is about to be published, so that a replaced document is never missing for a moment."""
        seen = self._index.sequence
        changes = [Wording(seen, chunk, text) for chunk, text in zip(chunks, texts, strict=True)]
        self._ahead += chunks
        await self._in_thread(lambda: self._index.apply(changes))

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        while await self._in_thread(self._step):
            pass
        if self._ahead:
            await self._in_thread(self._withdraw)

    async def save(self) -> None:
        """Note on disk how far the index has come."""
        if self._index.sequence != self.saved and not self._ahead:
            try:
                self.saved = await self._in_thread(self._save)
            except OSError as error:
                logger.error("snapshot failed", collection=self._collection.name, error=str(error))

    async def stop(self) -> None:
        """Write no more."""
        await self._in_thread(self._index.close)

    async def close(self) -> None:
        await self.save()
        await self.stop()

    def _open(self) -> tuple[TantivyIndex, int]:
        loaded = lexical_folder.load(self._folder, self._collection.language)
        if isinstance(loaded, TantivyIndex) and loaded.sequence >= self._read(changelog.floor):
            return loaded, loaded.sequence
        reason = "the log no longer reaches back to it" if isinstance(loaded, TantivyIndex) else loaded.reason
        if self._read(changelog.head):
            self._warn(reason)
        return self._rebuild(), UNSAVED

    def _rebuild(self) -> TantivyIndex:
        fresh = lexical_folder.create(self._folder, self._collection.language)

        def fill(db: apsw.Connection) -> None:
            for block in changelog.living_wordings(db, self._collection.number, REPLAY):
                if self._stopping.is_set():
                    raise Unavailable("The service stops while an index is being rebuilt.")
                fresh.fill([block])

        self._database.read_here(fill)
        return fresh

    def _step(self) -> bool:
        changes = self._database.read_here(
            lambda db: changelog.wordings(db, self._collection.number, self._index.sequence, REPLAY)
        )
        self._index.apply(changes)
        return bool(changes)

    def _withdraw(self) -> None:
        """Take back what was added ahead and never published: its document was superseded or deleted meanwhile."""
        gone, self._ahead = self._database.read_here(lambda db: changelog.unpublished(db, self._ahead))
        self._index.apply([Wording(self._index.sequence, chunk, None) for chunk in gone])

    def _agrees(self) -> bool:
        """Whether it holds every living chunk. What was added ahead of a crash, and not published, is taken out."""
        if len(self._index) == self._read(changelog.count_living):
            return True
        living = self._database.read_here(lambda db: changelog.living_chunks(db, self._collection.number))
        strays = np.setdiff1d(self._index.chunks, living)
        self._index.apply([Wording(self._index.sequence, chunk, None) for chunk in strays.tolist()])
        return len(self._index) == len(living)

    def _save(self) -> int:
        return lexical_folder.save(self._index, self._folder, self._collection.language)

    def _warn(self, reason: str) -> None:
        logger.warning("lexical index is rebuilt from the truth", collection=self._collection.name, reason=reason)

    def _read(self, what: Callable[[apsw.Connection, int], int]) -> int:
        return self._database.read_here(lambda db: what(db, self._collection.number))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
