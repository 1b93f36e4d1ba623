"""A collection's vector index as a view of the truth: opened or rebuilt, brought up to date, saved, compacted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Event
from time import monotonic

import structlog

from app.service.follower import VECTORS, Follower
from app.settings import Settings
from app.stores import log as changelog
from app.stores import snapshot
from app.stores.hnsw import HnswIndex
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection, VectorIndex
from models.types import Vectors

logger = structlog.get_logger()

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
        self._follower = Follower(VECTORS, database, collection, threads, stopping)
        self._collection = collection
        self._folder = folder
        self._settings = settings
        self._metrics = metrics
        self.saved = UNSAVED
        """The last change that is on disk."""
        self._moved_at = monotonic()
        self._compaction: asyncio.Task[HnswIndex] | None = None
        for outcome in ("written", "failed"):
            metrics.snapshots.labels(collection.name, outcome)
        self.index: VectorIndex = self._empty()

    async def open(self) -> None:
        """Take the snapshot if it is whole and the log still reaches back to it; rebuild otherwise; then catch up."""
        self.index, self.saved = await self._follower.in_thread(self._open)
        await self.follow()

    async def add_ahead(self, chunks: Sequence[int], vectors: Vectors) -> None:
        await self._follower.add_ahead(self.index, chunks, vectors)

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        if await self._follower.follow(self.index):
            self._moved_at = monotonic()

    async def tidy(self) -> None:
        """Save and compact when it is time."""
        if self._compaction is not None:
            if self._compaction.done():
                await self._swap(self._compaction)
        elif self._heavy():
            self._compaction = asyncio.create_task(self._follower.in_thread(self._rebuild))
        elif self._due():
            await self.save()

    async def save(self) -> None:
        """Write a snapshot. If it can't be written, the old one stays."""
        if self.index.sequence == self.saved or self._follower.is_ahead:
            return
        outcome = "failed"
        try:
            self.saved, outcome = await self._follower.in_thread(self._save), "written"
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
        await self._follower.follow(fresh)
        self.index, self.saved = fresh, UNSAVED
        logger.info("index compacted", collection=self._collection.name, chunks=len(fresh))
        await self.save()

    def _open(self) -> tuple[VectorIndex, int]:
        """The index, and up to which change it is on disk."""
        collection, floor = self._collection, self._follower.read(changelog.floor)
        loaded = snapshot.load(self._folder, collection.fingerprint, collection.dimensions, self._settings)
        if isinstance(loaded, HnswIndex) and loaded.sequence >= floor:
            return loaded, loaded.sequence
        reason = "the log no longer reaches back to it" if isinstance(loaded, HnswIndex) else loaded.reason
        if self._follower.read(changelog.head):
            logger.warning("index is rebuilt from the truth", collection=collection.name, reason=reason)
        return self._rebuild(), UNSAVED

    def _rebuild(self) -> HnswIndex:
        fresh = self._empty()
        self._follower.fill(fresh.apply)
        return fresh

    def _save(self) -> int:
        assert isinstance(self.index, HnswIndex)
        return snapshot.write(self.index, self._folder, self._collection.fingerprint)

    def _empty(self) -> HnswIndex:
        s = self._settings
        return HnswIndex(self._collection.dimensions, s.index_m, s.index_ef_construction, s.index_ef, s.exact_below)
