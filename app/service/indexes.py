"""A collection's indexes: views of one truth that follow its log together."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Event

from app.service.lexical_view import LexicalView
from app.service.sparse_view import SparseView
from app.service.vector_view import VectorView
from app.settings import Settings
from app.stores import log as changelog
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection
from models.types import SparseVector, Vectors


class Indexes:
    """All views. What is added to one is added to the others, and the log is kept for whichever is behind."""

    def __init__(
        self,
        database: Database,
        collection: Collection,
        folder: Path,
        settings: Settings,
        metrics: Metrics,
        threads: Executor,
        stopping: Event,
    ) -> None:
        self._database = database
        self._collection = collection
        self._folder = folder
        self._forgotten = 0
        self.dense = VectorView(database, collection, folder, settings, metrics, threads, stopping)
        self.lexical = LexicalView(database, collection, folder / "lexical", threads, stopping)
        self.sparse = SparseView(database, collection, threads, stopping) if collection.sparse else None

    async def open(self) -> None:
        await asyncio.gather(*(view.open() for view in self._views))

    async def add_ahead(
        self, chunks: Sequence[int], texts: Sequence[str], vectors: Vectors, sparse: Sequence[SparseVector]
    ) -> None:
        """Add what is about to be published."""
        added = [self.dense.add_ahead(chunks, vectors), self.lexical.add_ahead(chunks, texts)]
        await asyncio.gather(*added, *([self.sparse.add_ahead(chunks, sparse)] if self.sparse else []))

    async def follow(self) -> None:
        """Bring all of them up to the end of the log."""
        await asyncio.gather(*(view.follow() for view in self._views))

    async def tidy(self) -> None:
        """Save and compact when it is time, and forget what all of them have on disk, or need not have there."""
        await self.lexical.save()
        await self.dense.tidy()
        await self._forget()

    async def close(self) -> None:
        await asyncio.gather(self.dense.close(), self.lexical.close())
        await self._forget()

    async def discard(self) -> None:
        """Remove all that is on disk."""
        await self.lexical.stop()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def _views(self) -> list[VectorView | LexicalView | SparseView]:
        return [self.dense, self.lexical, *([self.sparse] if self.sparse else [])]

    async def _forget(self) -> None:
        through = min(view.saved for view in self._views)
        if through > self._forgotten:
            await self._database.write(lambda db: changelog.prune(db, self._collection.number, through))
            self._forgotten = through
