"""A collection's indexes: views of one truth that follow its log together."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Literal

from app.errors import Damaged
from app.service.follower import Workers
from app.service.lexical_view import LexicalView
from app.service.sparse_view import SparseView
from app.service.vector_view import VectorView
from app.settings import Settings
from app.stores import log as changelog
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection
from models.types import SparseVector, Vectors

Kind = Literal["dense", "lexical", "sparse"]
View = VectorView | LexicalView | SparseView


class Indexes:
    """All views. What is added to one is added to the others, and the log is kept for whichever is behind."""

    def __init__(
        self,
        database: Database,
        collection: Collection,
        folder: Path,
        settings: Settings,
        metrics: Metrics,
        workers: Workers,
    ) -> None:
        self._database = database
        self._collection = collection
        self._folder = folder
        self._forgotten = 0
        self._dropping = Event()
        workers = replace(workers, dropping=self._dropping)
        self.dense = VectorView(database, collection, folder, settings, metrics, workers)
        self.lexical = LexicalView(database, collection, folder / "lexical", metrics, workers)
        self.sparse = SparseView(database, collection, metrics, workers) if collection.sparse else None

    @property
    def rebuilding(self) -> list[str]:
        """How far those are that are being rebuilt."""
        return [view.rebuilding for view in self._views if view.rebuilding]

    async def open(self) -> None:
        try:
            await _all(view.open() for view in self._views)
        except OSError as error:
            raise Damaged(
                f"The indexes of collection '{self._collection.name}' can't be opened: {error}. See that this user may "
                f"write to all of {self._folder}, or remove it: the next start builds them anew from the database."
            ) from error

    async def add_ahead(
        self, chunks: Sequence[int], texts: Sequence[str], vectors: Vectors, sparse: Sequence[SparseVector]
    ) -> None:
        """Add what is about to be published."""
        added = [self.dense.add_ahead(chunks, vectors), self.lexical.add_ahead(chunks, texts)]
        await _all([*added, *([self.sparse.add_ahead(chunks, sparse)] if self.sparse else [])])

    async def follow(self) -> None:
        """Bring all of them up to the end of the log."""
        await _all(view.follow() for view in self._views)

    async def save(self) -> None:
        """Have all that is kept on disk as it is now."""
        await asyncio.gather(self.dense.save(), self.lexical.save())

    def renew(self, kinds: Iterable[Kind]) -> None:
        """Build these anew in the background; until they are in place the old ones serve."""
        for kind in kinds:
            if view := self.view(kind):
                view.renew()

    @property
    def is_renewing(self) -> bool:
        return any(view.renewal.is_under_way for view in self._views)

    def view(self, kind: Kind) -> View | None:
        """None where the collection has none of this kind."""
        views: dict[Kind, View | None] = {"dense": self.dense, "lexical": self.lexical, "sparse": self.sparse}
        return views[kind]

    async def tidy(self) -> None:
        """Save and compact when it is time, and forget what all of them have on disk, or need not have there."""
        await self.lexical.tidy()
        await self.dense.tidy()
        if self.sparse:
            await self.sparse.tidy()
        await self._forget()

    async def close(self) -> None:
        await _all(view.close() for view in self._views)
        await self._forget()

    async def discard(self) -> None:
        """Remove all that is on disk, and build nothing any more."""
        self._dropping.set()
        await asyncio.gather(*(view.renewal.give_up() for view in self._views))
        await self.lexical.stop()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def _views(self) -> list[View]:
        return [self.dense, self.lexical, *([self.sparse] if self.sparse else [])]

    async def _forget(self) -> None:
        """Not while one is built anew: it follows the log from where it began to read the truth. One that only begins
        while this is under way reads a truth that has all of what is forgotten."""
        through = min(view.saved for view in self._views)
        if through > self._forgotten and not self.is_renewing:
            await self._database.write(lambda db: changelog.prune(db, self._collection.number, through))
            self._forgotten = through


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Until each has come to its end, also where one has failed: what is tried next would meet the others."""
    for done in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(done, BaseException):
            raise done
