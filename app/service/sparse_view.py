"""A collection's index of sparse vectors as a view of the truth: rebuilt at the start, then brought up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import structlog

from app.service.follower import TERMS, Follower, Renewal, Workers
from app.stores.holdings import HeldTerms, Holding
from app.stores.sparse import InvertedIndex
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection, SparseIndex
from models.types import SparseVector

logger = structlog.get_logger()


class SparseView:
    """Follows the log of one collection. Only its owner's task changes it; any search may read `index`.

    It has no files: 100,000 chunks are read from the truth and indexed in three seconds, without a model.
    """

    def __init__(self, database: Database, collection: Collection, metrics: Metrics, workers: Workers) -> None:
        self._follower = Follower(TERMS, database, collection, workers, metrics)
        self._collection = collection
        self._index = InvertedIndex()
        self.renewal = Renewal[InvertedIndex](self._follower.head)

    @property
    def index(self) -> SparseIndex:
        return self._index

    @property
    def saved(self) -> int:
        """The last change that the log need not keep for it."""
        return self._index.sequence

    @property
    def rebuilding(self) -> str | None:
        """How far a rebuild is, while there is one."""
        return self._follower.rebuilding

    async def open(self) -> None:
        self._index = await self._rebuilt()
        await self.follow()

    async def add_ahead(self, chunks: Sequence[int], vectors: Sequence[SparseVector]) -> None:
        await self._follower.add_ahead(self._index, chunks, vectors)

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        await self._follower.follow(self._index)

    async def tidy(self) -> None:
        """Put in place what was built anew."""
        if (fresh := self.renewal.built()) is not None:
            await self._swap(fresh)

    def renew(self) -> None:
        """Begin to build it anew, for `tidy` to put in place."""
        self.renewal.begin(self._rebuilt)

    async def close(self) -> None:
        await self.renewal.end()

    @property
    def ahead(self) -> Sequence[int]:
        return self._follower.ahead

    def holdings(self) -> Iterator[Holding]:
        yield HeldTerms(self._index)

    def flaw(self) -> str | None:
        """Nothing is on disk."""
        return None

    async def _swap(self, fresh: InvertedIndex) -> None:
        """Put it in place, if the log still has all that came since."""
        if reason := await self._follower.refuses(fresh, self.renewal.since):
            logger.warning("sparse index built anew is given up", collection=self._collection.name, reason=reason)
            return
        await self._follower.follow(fresh)
        self._index = fresh

    async def _rebuilt(self) -> InvertedIndex:
        return await self._follower.rebuilt(InvertedIndex)
