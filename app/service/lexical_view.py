"""A collection's lexical index as a view of the truth: opened or rebuilt, brought up to date, saved."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import structlog

from app.errors import NoSpace
from app.service.follower import TOO_NEW, WORDS, Follower, Renewal, Workers
from app.stores import lexical_folder
from app.stores import log as changelog
from app.stores.holdings import HeldWords, Holding
from app.stores.lexical import TantivyIndex
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection, LexicalIndex, Wording

logger = structlog.get_logger()

UNSAVED = 0


class LexicalView:
    """Follows the log of one collection. Only its owner's task changes it; any search may read `index`.

    The engine keeps its files itself, and merges them: there is nothing to compact.
    """

    def __init__(
        self, database: Database, collection: Collection, folder: Path, metrics: Metrics, workers: Workers
    ) -> None:
        self._room = database.room
        self._follower = Follower(WORDS, database, collection, workers, metrics)
        self._collection = collection
        self._folder = folder
        self._index = TantivyIndex(collection.language)
        self.renewal = Renewal[TantivyIndex](self._follower.head)
        self.saved = UNSAVED
        """The last change that is on disk."""

    @property
    def index(self) -> LexicalIndex:
        return self._index

    @property
    def rebuilding(self) -> str | None:
        """How far a rebuild is, while there is one."""
        return self._follower.rebuilding

    async def open(self) -> None:
        """Take what is on disk if it is whole and the log leads on from it; rebuild otherwise; catch up."""
        loaded = await self._follower.in_thread(self._load)
        self._index, self.saved = (loaded, loaded.sequence) if loaded else (await self._rebuilt(self._folder), UNSAVED)
        if not await self._catches_up():
            self._index, self.saved = await self._rebuilt(self._folder), UNSAVED

    async def add_ahead(self, chunks: Sequence[int], texts: Sequence[str]) -> None:
        await self._follower.add_ahead(self._index, chunks, texts)

    async def follow(self) -> None:
        """Bring the index up to the end of the log."""
        await self._follower.follow(self._index)

    async def tidy(self) -> None:
        """Put in place what was built anew, and save."""
        if (fresh := self.renewal.built()) is not None:
            await self._swap(fresh)
        await self.save()

    def renew(self) -> None:
        """Begin to build it anew, for `tidy` to put in place."""
        self.renewal.begin(lambda: self._rebuilt(self._fresh))

    async def save(self) -> None:
        """Note on disk how far the index has come."""
        if self._index.sequence != self.saved and not self._follower.is_ahead and not self._room.lacking:
            try:
                self.saved = await self._follower.in_thread(self._save)
            except (OSError, NoSpace) as error:
                logger.error("snapshot failed", collection=self._collection.name, error=error)

    async def stop(self) -> None:
        """Write no more."""
        await self._follower.in_thread(self._index.close)

    async def close(self) -> None:
        await self.renewal.end()
        await self.save()
        await self.stop()

    @property
    def ahead(self) -> Sequence[int]:
        return self._follower.ahead

    def holdings(self) -> Iterator[Holding]:
        yield HeldWords(self._index)

    def flaw(self) -> str | None:
        """Why the next start would not take what is on disk, if it would not."""
        if self.saved == UNSAVED:
            return None
        try:
            found = lexical_folder.checked(self._folder, self._collection.language)
        except (OSError, ValueError) as error:
            return str(error)
        return self._follower.refusal(found.sequence)

    @property
    def _fresh(self) -> Path:
        """Where an index is built beside the one that serves."""
        return self._folder.with_name(f"{self._folder.name}.fresh")

    def _load(self) -> TantivyIndex | None:
        """What is on disk, if it can be used; what was being built beside it when the process ended is not."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        loaded = lexical_folder.load(self._folder, self._collection.language)
        reason = self._follower.refusal(loaded.sequence) if isinstance(loaded, TantivyIndex) else loaded.reason
        if isinstance(loaded, TantivyIndex) and not reason:
            return loaded
        if reason == TOO_NEW or self._follower.read(changelog.head):
            self._warn(str(reason))
        return None

    async def _rebuilt(self, folder: Path) -> TantivyIndex:
        return await self._follower.rebuilt(lambda: lexical_folder.create(folder, self._collection.language))

    async def _swap(self, fresh: TantivyIndex) -> None:
        """Put it in place, if the log still has all that came since."""
        if reason := await self._follower.refuses(fresh, self.renewal.since):
            logger.warning("lexical index built anew is given up", collection=self._collection.name, reason=reason)
            await self._follower.in_thread(fresh.close)
            return
        await self._follower.follow(fresh)
        self._index, self.saved = await self._follower.in_thread(lambda: self._replace(fresh)), UNSAVED

    def _replace(self, fresh: TantivyIndex) -> TantivyIndex:
        """Searches under way read on from files that have no names any more."""
        fresh.close()
        self._index.close()
        return lexical_folder.move(self._fresh, self._folder, self._collection.language, fresh.sequence)

    async def _catches_up(self) -> bool:
        """Whether it can be brought up to the end of the log, and then holds what the truth does."""
        try:
            await self.follow()
        except ValueError as error:  # tantivy's, for whatever is wrong with its files
            self._warn(str(error))
            return False
        if not await self._follower.in_thread(self._agrees):
            self._warn("it does not hold what the truth does")
            return False
        return True

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
