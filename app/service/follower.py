"""How an index follows the log of its collection: ahead of it by what is about to be published, then to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

import apsw

from app.errors import Unavailable
from app.stores import log as changelog
from app.stores.sqlite import Database
from app.types import Change, Collection, Expansion, Wording

REPLAY = 1024
"""Changes, or chunks of a rebuild, that are read and applied at once."""

T = TypeVar("T")
Step = TypeVar("Step")
StepIn = TypeVar("StepIn", contravariant=True)


class Follows(Protocol[StepIn]):
    """An index, as far as the log is concerned."""

    @property
    def sequence(self) -> int: ...

    def apply(self, changes: Sequence[StepIn]) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading(Generic[Step]):
    """The log as one kind of index reads it."""

    step: Callable[[int, int, Any], Step]
    """Of a sequence, a chunk, and what the chunk is to this kind; None where it is gone."""
    next: Callable[[apsw.Connection, int, int, int], list[Step]]
    living: Callable[[apsw.Connection, int, int], Iterator[list[Step]]]


VECTORS = Reading(Change, changelog.changes, changelog.living)
WORDS = Reading(Wording, changelog.wordings, changelog.living_wordings)
TERMS = Reading(Expansion, changelog.expansions, changelog.living_expansions)


class Follower(Generic[Step]):
    """Moves the indexes of one collection and kind. Only its owner's task uses it."""

    def __init__(
        self, reading: Reading[Step], database: Database, collection: Collection, threads: Executor, stopping: Event
    ) -> None:
        self._reading = reading
        self._database = database
        self._number = collection.number
        self._threads = threads
        self._stopping = stopping
        self._ahead: list[int] = []

    @property
    def is_ahead(self) -> bool:
        """Whether the index holds what is not published: then it must not be taken for what the truth has."""
        return bool(self._ahead)

    async def add_ahead(self, index: Follows[Step], chunks: Sequence[int], contents: Iterable[Any]) -> None:
        """Add what is about to be published, so that a replaced document is never missing for a moment.

        Until then the truth does not call the chunks living, and no search shows them.
        """
        seen = index.sequence
        changes = [self._reading.step(seen, *each) for each in zip(chunks, contents, strict=True)]
        self._ahead += chunks
        await self.in_thread(lambda: index.apply(changes))

    async def follow(self, index: Follows[Step]) -> bool:
        """Bring an index up to the end of the log; says whether there was anything new."""
        moved = False
        while await self.in_thread(lambda: self._step(index)):
            moved = True
        if self._ahead:
            await self.in_thread(lambda: self._withdraw(index))
        return moved

    def fill(self, take: Callable[[list[Step]], None]) -> None:
        """All that an index must hold, block by block, in the calling thread."""

        def read(db: apsw.Connection) -> None:
            for block in self._reading.living(db, self._number, REPLAY):
                if self._stopping.is_set():
                    raise Unavailable("The service stops while an index is being rebuilt.")
                take(block)

        self._database.read_here(read)

    def read(self, what: Callable[[apsw.Connection, int], T]) -> T:
        """Something of the collection's log, in the calling thread."""
        return self._database.read_here(lambda db: what(db, self._number))

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _step(self, index: Follows[Step]) -> bool:
        changes = self._database.read_here(lambda db: self._reading.next(db, self._number, index.sequence, REPLAY))
        index.apply(changes)
        return bool(changes)

    def _withdraw(self, index: Follows[Step]) -> None:
        """Take back what was added ahead and never published: its document was superseded or deleted meanwhile."""
        gone, self._ahead = self._database.read_here(lambda db: changelog.unpublished(db, self._ahead))
        index.apply([self._reading.step(index.sequence, chunk, None) for chunk in gone])
