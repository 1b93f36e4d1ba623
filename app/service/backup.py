"""Backups: of the service that runs, with its indexes saved first, or of a data folder that nobody works in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from threading import Event

import apsw
import structlog

from app.errors import Conflict, Damaged
from app.service.collections import Collections
from app.stores.archive import Archive
from app.stores.backup import gather
from app.stores.data_dir import DATABASE, claim
from app.stores.sqlite import Database
from app.telemetry import Metrics

logger = structlog.get_logger()

SAVE_SECONDS = 60.0
"""An index that can't be saved for so long is taken as it was saved before: the log leads on from there."""


class Backups:
    """Makes one at a time, since each needs room for a copy of the database."""

    def __init__(self, database: Database, collections: Collections, data_dir: Path, metrics: Metrics) -> None:
        self._database = database
        self._collections = collections
        self._data_dir = data_dir
        self._metrics = metrics
        self._stopping = Event()
        self._saving: asyncio.Future[None] | None = None
        self._gathering: asyncio.Future[Archive] | None = None

    @asynccontextmanager
    async def make(self) -> AsyncIterator[Archive]:
        """All that was acknowledged before this was asked for; what comes in meanwhile may be in it, and then whole."""
        if self._gathering is not None:
            raise Conflict("A backup is being made already. Ask again when it is done.")
        self._stopping.clear()
        self._saving = asyncio.ensure_future(self._collections.save())
        self._gathering = asyncio.ensure_future(self._gather(self._saving))
        taken = False
        try:
            archive = await asyncio.shield(self._gathering)
            yield archive
            taken = archive.taken
        finally:
            self._metrics.backups.labels("taken" if taken else "failed").inc()
            await self.close()

    async def close(self) -> None:
        """Give up what is being made, and let go of what was."""
        if self._saving is not None and self._gathering is not None:
            self._stopping.set()
            self._saving.cancel()
            (made,) = await asyncio.gather(self._gathering, return_exceptions=True)
            self._saving = self._gathering = None
            if isinstance(made, Archive):
                made.close()

    async def _gather(self, saving: asyncio.Future[None]) -> Archive:
        if not (await asyncio.wait([saving], timeout=SAVE_SECONDS))[0]:
            saving.cancel()
            logger.warning("indexes are backed up as they were saved before", waited=SAVE_SECONDS)
        return await self._database.read_apart(lambda db: gather(db, self._data_dir, self._stopping))


@contextmanager
def of_folder(data_dir: Path) -> Iterator[Archive]:
    """A backup of what is there, as it is: nothing is opened, migrated or built."""
    path = data_dir / DATABASE
    with claim(data_dir):
        try:
            with closing(apsw.Connection(str(path))) as db:
                archive = gather(db, data_dir, Event())
        except apsw.Error as error:
            raise Damaged(f"{path} can't be read: {error}. `winnow check` says more.") from error
        with closing(archive):
            yield archive
