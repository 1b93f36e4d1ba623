"""A collection's vector index as a view of the truth: opened or rebuilt, brought up to date, saved, compacted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TypeVar

import apsw
import structlog

from app.errors import Unavailable
from app.settings import Settings
from app.stores import log as changelog
from app.stores import snapshot
from app.stores.hnsw import HnswIndex
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Change, Collection, VectorIndex
from models.types import Vectors

T = TypeVar("T")

logger = structlog.get_logger()

REPLAY = 1024
"""Changes, or vectors of a rebuild, that are read and applied at once."""

UNSAVED = 0
"""The last change in the snapshot when there is none of this index: changes count from 1."""

COMPACT_AT_LEAST = 1000
"""Fewer deleted chunks are not worth a rebuild, whatever their share."""


class VectorView:
    """Follows the log of one collection. Only its owner's task changes it; any search may read `index`."""

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
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._stopping = stopping
        self.saved = UNSAVED
        """The last change that is on disk."""
        self._moved_at = monotonic()
        self._compaction: asyncio.Task[HnswIndex] | None = None
        self._ahead: list[int] = []
        for outcome in ("written", "failed"):
            metrics.snapshots.labels(collection.name, outcome)
        self.index: VectorIndex = self._empty()

    async def open(self) -> None:
        """Take the snapshot if it is whole and the log still reaches back to it; rebuild otherwise; then catch up."""
        self.index, self.saved = await self._in_thread(self._open)
        await self.follow()

    async def add_ahead(self, chunks: Sequence[int], vectors: Vectors) -> None:
        """Add vectors that are about to be published, so that a replaced document is never missing for a moment.

        Until then the truth does not call their chunks living, and no search shows them.
        """
        seen = self.index.sequence
        changes = [Change(seen, chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True)]
        self._ahead += chunks
        await self._in_thread(lambda: self.index.apply(changes))

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        while await self._in_thread(lambda: self._step(self.index)):
            self._moved_at = monotonic()
        if self._ahead:
            await self._in_thread(self._withdraw)

    async def tidy(self) -> None:
        """Save and compact when it is time."""
        if self._compaction is not None:
            if self._compaction.done():
                await self._swap(self._compaction)
        elif self._heavy():
            self._compaction = asyncio.create_task(self._in_thread(self._rebuild))
        elif self._due():
            await self.save()

    async def save(self) -> None:
        """Write a snapshot. If it can't be written, the old one stays."""
        if self.index.sequence == self.saved or self._ahead:
            return
        outcome = "failed"
        try:
            self.saved, outcome = await self._in_thread(self._save), "written"
        except OSError as error:
            self._moved_at = monotonic()
            logger.error("snapshot failed", collection=self._collection.name, error=str(error))
        self._metrics.snapshots.labels(self._collection.name, outcome).inc()

    async def close(self) -> None:
        if self._compaction is not None:
            await asyncio.gather(self._compaction, return_exceptions=True)
        await self.save()

    def _heavy(self) -> bool:
        deleted = self.index.deleted
        return deleted >= COMPACT_AT_LEAST and deleted > self._settings.compact_share * (len(self.index) + deleted)

    def _due(self) -> bool:
        behind = self.index.sequence - self.saved
        quiet = monotonic() - self._moved_at > self._settings.snapshot_seconds
        return behind >= self._settings.snapshot_changes or (behind > 0 and quiet)

    async def _swap(self, compaction: asyncio.Task[HnswIndex]) -> None:
        self._compaction = None
        fresh = compaction.result()
        while await self._in_thread(lambda: self._step(fresh)):
            pass
        self.index, self.saved = fresh, UNSAVED
        logger.info("index compacted", collection=self._collection.name, chunks=len(fresh))
        await self.save()

    def _open(self) -> tuple[VectorIndex, int]:
        """The index, and up to which change it is on disk."""
        collection, floor = self._collection, self._read(changelog.floor)
        loaded = snapshot.load(self._folder, collection.fingerprint, collection.dimensions, self._settings)
        if isinstance(loaded, HnswIndex) and loaded.sequence >= floor:
            return loaded, loaded.sequence
        reason = "the log no longer reaches back to it" if isinstance(loaded, HnswIndex) else loaded.reason
        if self._read(changelog.head):
            logger.warning("index is rebuilt from the truth", collection=collection.name, reason=reason)
        return self._rebuild(), UNSAVED

    def _rebuild(self) -> HnswIndex:
        fresh = self._empty()

        def fill(db: apsw.Connection) -> None:
            for block in changelog.living(db, self._collection.number, REPLAY):
                if self._stopping.is_set():
                    raise Unavailable("The service stops while an index is being rebuilt.")
                fresh.apply(block)

        self._database.read_here(fill)
        return fresh

    def _step(self, index: VectorIndex) -> bool:
        changes = self._database.read_here(
            lambda db: changelog.changes(db, self._collection.number, index.sequence, REPLAY)
        )
        index.apply(changes)
        return bool(changes)

    def _withdraw(self) -> None:
        """Take back what was added ahead and never published: its document was superseded or deleted meanwhile."""
        gone, self._ahead = self._database.read_here(lambda db: changelog.unpublished(db, self._ahead))
        self.index.apply([Change(self.index.sequence, chunk, None) for chunk in gone])

    def _save(self) -> int:
        assert isinstance(self.index, HnswIndex)
        return snapshot.write(self.index, self._folder, self._collection.fingerprint)

    def _empty(self) -> HnswIndex:
        s = self._settings
        return HnswIndex(self._collection.dimensions, s.index_m, s.index_ef_construction, s.index_ef, s.exact_below)

    def _read(self, what: Callable[[apsw.Connection, int], int]) -> int:
        return self._database.read_here(lambda db: what(db, self._collection.number))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
