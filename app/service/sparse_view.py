"""A collection's index of sparse vectors as a view of the truth: rebuilt at the start, then brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from threading import Event

from app.service.follower import TERMS, Follower
from app.stores.sparse import InvertedIndex
from app.stores.sqlite import Database
from app.types import Collection, SparseIndex
from models.types import SparseVector


class SparseView:
    """Follows the log of one collection. Only its owner's task changes it; any search may read `index`.

    It has no files: 100,000 chunks are read from the truth and indexed in three seconds, without a model.
    """

    def __init__(self, database: Database, collection: Collection, threads: Executor, stopping: Event) -> None:
        self._follower = Follower(TERMS, database, collection, threads, stopping)
        self._index = InvertedIndex()

    @property
    def index(self) -> SparseIndex:
        return self._index

    @property
    def saved(self) -> int:
        """The last change that the log need not keep for it."""
        return self._index.sequence

    async def open(self) -> None:
        self._index = await self._follower.in_thread(self._rebuild)
        await self.follow()

    async def add_ahead(self, chunks: Sequence[int], vectors: Sequence[SparseVector]) -> None:
        await self._follower.add_ahead(self._index, chunks, vectors)

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        await self._follower.follow(self._index)

    def _rebuild(self) -> InvertedIndex:
        fresh = InvertedIndex()
        self._follower.fill(fresh.apply)
        return fresh
