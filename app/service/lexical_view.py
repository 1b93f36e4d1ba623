"""A collection's lexical index as a view of the truth: opened or rebuilt, brought up to date, saved."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Event

import numpy as np
import structlog

from app.service.follower import WORDS, Follower
from app.stores import lexical_folder
from app.stores import log as changelog
from app.stores.lexical import TantivyIndex
from app.stores.sqlite import Database
from app.types import Collection, LexicalIndex, Wording

logger = structlog.get_logger()

UNSAVED = 0


class LexicalView:
    """Follows the log of one collection. Only its owner's task changes it; any search may read `index`.

    The engine keeps its files itself, and merges them: there is nothing to compact.
    """

    def __init__(
        self, database: Database, collection: Collection, folder: Path, threads: Executor, stopping: Event
    ) -> None:
        self._follower = Follower(WORDS, database, collection, threads, stopping)
        self._collection = collection
        self._folder = folder
        self._index = TantivyIndex(collection.language)
        self.saved = UNSAVED
        """The last change that is on disk."""

    @property
    def index(self) -> LexicalIndex:
        return self._index

    async def open(self) -> None:
        """Take what is on disk if it is whole and the log still reaches back to it; rebuild otherwise; catch up."""
        self._index, self.saved = await self._follower.in_thread(self._open)
        await self.follow()
        if not await self._follower.in_thread(self._agrees):
            self._warn("it does not hold what the truth does")
            self._index, self.saved = await self._follower.in_thread(self._rebuild), UNSAVED

    async def add_ahead(self, chunks: Sequence[int], texts: Sequence[str]) -> None:
        await self._follower.add_ahead(self._index, chunks, texts)

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        await self._follower.follow(self._index)

    async def save(self) -> None:
        """Note on disk how far the index has come."""
        if self._index.sequence != self.saved and not self._follower.is_ahead:
            try:
                self.saved = await self._follower.in_thread(self._save)
            except OSError as error:
                logger.error("snapshot failed", collection=self._collection.name, error=str(error))

    async def stop(self) -> None:
        """Write no more."""
        await self._follower.in_thread(self._index.close)

    async def close(self) -> None:
        await self.save()
        await self.stop()

    def _open(self) -> tuple[TantivyIndex, int]:
        loaded = lexical_folder.load(self._folder, self._collection.language)
        if isinstance(loaded, TantivyIndex) and loaded.sequence >= self._follower.read(changelog.floor):
            return loaded, loaded.sequence
        reason = "the log no longer reaches back to it" if isinstance(loaded, TantivyIndex) else loaded.reason
        if self._follower.read(changelog.head):
            self._warn(reason)
        return self._rebuild(), UNSAVED

    def _rebuild(self) -> TantivyIndex:
        fresh = lexical_folder.create(self._folder, self._collection.language)
        self._follower.fill(lambda block: fresh.fill([block]))
        return fresh

    def _agrees(self) -> bool:
        """Whether it holds every living chunk. What was added ahead of a crash, and not published, is taken out."""
        if len(self._index) == self._follower.read(changelog.count_living):
            return True
        living = self._follower.read(changelog.living_chunks)
        strays = np.setdiff1d(self._index.chunks, living)
        self._index.apply([Wording(self._index.sequence, chunk, None) for chunk in strays.tolist()])
        return len(self._index) == len(living)

    def _save(self) -> int:
        return lexical_folder.save(self._index, self._folder, self._collection.language)

    def _warn(self, reason: str) -> None:
        logger.warning("lexical index is rebuilt from the truth", collection=self._collection.name, reason=reason)
