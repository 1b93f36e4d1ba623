"""A collection's vector index as a view of the truth: opened or rebuilt, brought up to date, saved, compacted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic

import structlog

from app.errors import NoSpace
from app.service.follower import TOO_NEW, VECTORS, Follower, Renewal, Workers
from app.settings import Settings
from app.stores import hnsw_file, snapshot
from app.stores import log as changelog
from app.stores.hnsw import HnswIndex
from app.stores.holdings import Holding, of_graph, of_rows
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Change, ChunkIds, Collection, VectorIndex
from models.types import Vectors

logger = structlog.get_logger()

UNSAVED = 0
"""The last change in the snapshot when there is none of this index: changes count from 1."""

LOOKED_AT = "check.partial"
"""The graph while it is being checked."""

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
        workers: Workers,
    ) -> None:
        self._room = database.room
        self._follower = Follower(VECTORS, database, collection, workers, metrics)
        self._collection = collection
        self._folder = folder
        self._settings = settings
        self._metrics = metrics
        self.saved = UNSAVED
        """The last change that is on disk."""
        self._moved_at, self._failed_at = monotonic(), -inf
        self.renewal = Renewal[HnswIndex](self._follower.head)
        for outcome in ("written", "failed"):
            metrics.snapshots.labels(collection.name, outcome)
        metrics.renewals.labels(collection.name)
        self._ef = settings.index_ef
        self.index: VectorIndex = self._empty()

    @property
    def rebuilding(self) -> str | None:
        """How far a rebuild is, while there is one."""
        return self._follower.rebuilding

    async def open(self) -> None:
        """Take the snapshot if it is whole and the log leads on from it; rebuild otherwise; then catch up."""
        loaded = await self._follower.in_thread(self._load)
        self.index, self.saved = (loaded, loaded.sequence) if loaded else (await self._rebuilt(), UNSAVED)
        await self.follow()

    def tune(self, ef: int) -> None:
        """Another effort of searches, which outlives compactions."""
        self._ef = ef
        self.index.tune(ef)

    async def add_ahead(self, chunks: Sequence[int], vectors: Vectors) -> None:
        await self._follower.add_ahead(self.index, chunks, vectors)

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        if await self._follower.follow(self.index):
            self._moved_at = monotonic()

    async def tidy(self) -> None:
        """Save and compact when it is time."""
        if (fresh := self.renewal.built()) is not None:
            await self._swap(fresh)
        elif self._heavy():
            self.renew()
        elif self._due() and not self.renewal.is_under_way:
            await self.save()

    def renew(self) -> None:
        """Begin to build it anew, for `tidy` to put in place."""
        self.renewal.begin(self._rebuilt)

    async def save(self) -> None:
        """Write a snapshot. If it can't be written, the old one stays."""
        if self.index.sequence == self.saved or self._follower.is_ahead or self._room.lacking:
            return
        outcome = "failed"
        try:
            self.saved, outcome = await self._follower.in_thread(self._save), "written"
        except (OSError, NoSpace) as error:
            self._failed_at = monotonic()
            logger.error("snapshot failed", collection=self._collection.name, error=error)
        self._metrics.snapshots.labels(self._collection.name, outcome).inc()

    async def close(self) -> None:
        await self.renewal.end()
        await self.save()

    @property
    def ahead(self) -> Sequence[int]:
        return self._follower.ahead

    def holdings(self) -> Iterator[Holding]:
        """What is compared with exactly, then what the graph leads to: hnswlib tells that of its files alone."""
        assert isinstance(self.index, HnswIndex)
        yield of_rows(self.index.living)
        self._folder.mkdir(parents=True, exist_ok=True)
        snapshot.require_room(self.index, self._folder)
        try:
            self.index.save(self._folder / LOOKED_AT)
            yield of_graph(hnsw_file.read(self._folder / LOOKED_AT, self.index.graph_dimensions))
        finally:
            (self._folder / LOOKED_AT).unlink(missing_ok=True)

    def flaw(self) -> str | None:
        """Why the next start would not take what is on disk, if it would not."""
        if self.saved == UNSAVED:
            return None
        collection = self._collection
        try:
            found = snapshot.check(self._folder, collection.fingerprint, collection.dimensions, self._settings)
        except (OSError, ValueError) as error:
            return str(error)
        return self._follower.refusal(found.sequence)

    def _heavy(self) -> bool:
        deleted = self.index.deleted
        return deleted >= COMPACT_AT_LEAST and deleted > self._settings.compact_share * (len(self.index) + deleted)

    def _due(self) -> bool:
        """Not at once again after one that failed: it is a gigabyte to write for a million chunks."""
        behind, pause = self.index.sequence - self.saved, self._settings.snapshot_seconds
        if monotonic() - self._failed_at < pause:
            return False
        quiet = monotonic() - self._moved_at > pause
        return behind >= self._settings.snapshot_changes or (behind > 0 and quiet)

    async def _swap(self, fresh: HnswIndex) -> None:
        """Put it in place, if the log still has all that came since."""
        if reason := await self._follower.refuses(fresh, self.renewal.since):
            logger.warning("index built anew is given up", collection=self._collection.name, reason=reason)
            return
        await self._follower.follow(fresh)
        fresh.tune(self._ef)
        self.index, self.saved = fresh, UNSAVED
        self._metrics.renewals.labels(self._collection.name).inc()
        logger.info("index built anew", collection=self._collection.name, chunks=len(fresh))
        await self.save()

    def _load(self) -> HnswIndex | None:
        """What is on disk, if it can be used."""
        (self._folder / LOOKED_AT).unlink(missing_ok=True)
        collection = self._collection
        loaded = snapshot.load(self._folder, collection.fingerprint, self._empty(), self._settings)
        reason = self._follower.refusal(loaded.sequence) if isinstance(loaded, HnswIndex) else loaded.reason
        if isinstance(loaded, HnswIndex) and not reason:
            snapshot.sweep(self._folder)
            return loaded
        if reason == TOO_NEW or self._follower.read(changelog.head):
            logger.warning("index is rebuilt from the truth", collection=collection.name, reason=reason)
        return None

    async def _rebuilt(self) -> HnswIndex:
        return await self._follower.rebuilt(self._empty)

    def _save(self) -> int:
        assert isinstance(self.index, HnswIndex)
        return snapshot.write(self.index, self._folder, self._collection.fingerprint)

    def _empty(self) -> HnswIndex:
        s, dimensions = self._settings, self._collection.dimensions
        return HnswIndex(
            dimensions,
            s.index_m,
            s.index_ef_construction,
            s.index_ef,
            s.exact_below,
            s.index_threads,
            s.graph_dimensions(dimensions),
            partial(_vectors, self._follower, dimensions),
            rounded=s.index_precision == "int8",
        )


def _vectors(follower: Follower[Change], dimensions: int, chunks: ChunkIds) -> tuple[ChunkIds, Vectors]:
    """What the truth has of them. No method of the view: its index would hold it, and neither would be let go of."""
    return follower.read(lambda db, _: changelog.vectors(db, chunks, dimensions))
