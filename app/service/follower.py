"""How an index follows the log of its collection: ahead of it by what is about to be published, then to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

import apsw

from app.errors import Unavailable
from app.stores import log as changelog
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Change, Collection, Expansion, Wording

REPLAY = 1024
"""Changes, or chunks of a rebuild, that are read and applied at once."""

GIVE_UP_SECONDS = 5.0

TOO_OLD = "the log no longer reaches back to it"

TOO_NEW = "it has seen changes that the log does not have"
"""The database alone was put back: its next changes bear numbers that the index has seen already."""

T = TypeVar("T")
Fresh = TypeVar("Fresh", bound="Follows[Any]")
Step = TypeVar("Step")
StepIn = TypeVar("StepIn", contravariant=True)


@dataclass(frozen=True, slots=True)
class Workers:
    """Threads for what takes moments, others for rebuilds, which take minutes, and the word that both shall end."""

    threads: Executor
    rebuilding: Executor
    stopping: Event
    dropping: Event = field(default_factory=Event)
    """The word to those of one collection, that is dropped."""

    @property
    def shall_end(self) -> bool:
        return self.stopping.is_set() or self.dropping.is_set()


class Follows(Protocol[StepIn]):
    """An index, as far as the log is concerned."""

    @property
    def sequence(self) -> int: ...

    def apply(self, changes: Sequence[StepIn]) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading(Generic[Step]):
    """The log as one kind of index reads it."""

    index: str
    """What the kind is called."""
    step: Callable[[int, int, Any], Step]
    """Of a sequence, a chunk, and what the chunk is to this kind; None where it is gone."""
    next: Callable[[apsw.Connection, int, int, int], list[Step]]
    living: Callable[[apsw.Connection, int, int], Iterator[list[Step]]]


VECTORS = Reading("vector", Change, changelog.changes, changelog.living)
WORDS = Reading("lexical", Wording, changelog.wordings, changelog.living_wordings)
TERMS = Reading("sparse", Expansion, changelog.expansions, changelog.living_expansions)


def refusal(sequence: int, floor: int, head: int) -> str | None:
    """Why a log from after `floor` to `head` does not lead on from this change, if it does not."""
    if sequence < floor:
        return TOO_OLD
    return TOO_NEW if sequence > head else None


class Renewal(Generic[T]):
    """An index that is built anew in the background, for its owner's task to put in place when that is done."""

    def __init__(self, head: Callable[[], Awaitable[int]]) -> None:
        self._head = head
        self.since = 0
        """The end of the log when it began: the truth that it reads has at least as much."""
        self._task: asyncio.Future[T] | None = None

    @property
    def is_under_way(self) -> bool:
        return self._task is not None

    def begin(self, build: Callable[[], Awaitable[T]]) -> None:
        """Unless it has begun. The work is held only meanwhile, so that its owner is let go of with its last holder."""
        self._task = self._task or asyncio.ensure_future(self._run(build))

    async def _run(self, build: Callable[[], Awaitable[T]]) -> T:
        self.since = await self._head()
        return await build()

    def built(self) -> T | None:
        """The new index, once; what kept it from being built is raised, once too."""
        if self._task is None or not self._task.done():
            return None
        done, self._task = self._task, None
        return done.result()

    async def end(self) -> None:
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def give_up(self) -> None:
        """End it once its thread has heard of that; one that waits for a thread is not waited for."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=GIVE_UP_SECONDS)
            self._task.cancel()
            await self.end()
            self._task = None


class Follower(Generic[Step]):
    """Moves the indexes of one collection and kind. Only its owner's task uses it."""

    def __init__(
        self, reading: Reading[Step], database: Database, collection: Collection, workers: Workers, metrics: Metrics
    ) -> None:
        self._reading = reading
        self._database = database
        self._workers = workers
        self._ahead: list[int] = []
        self._collection = collection
        self._share = metrics.rebuild_share
        self._tell_share(1)
        self.rebuilding: str | None = None
        """How far a rebuild is, while there is one."""

    @property
    def ahead(self) -> Sequence[int]:
        """What the index holds that may not be published yet."""
        return self._ahead

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
        """Bring an index up to where the log ends now; says whether there was anything new. What others go on adding to
        it meanwhile, without a pause perhaps, is left to the next time."""
        head, moved = await self.head(), False
        while index.sequence < head and await self.in_thread(lambda: self._step(index)):
            moved = True
        if self._ahead:
            await self.in_thread(lambda: self._withdraw(index))
        return moved

    async def rebuilt(self, make: Callable[[], Fresh]) -> Fresh:
        """A new index that holds all it must. A long rebuild takes none of the threads that others wait for."""
        total = await self.in_thread(lambda: self.read(changelog.count_living))
        workers = self._workers
        threads = workers.rebuilding if total > REPLAY else workers.threads
        try:
            with self._database.room.needed():
                return await asyncio.get_running_loop().run_in_executor(threads, self._fill, make, total)
        finally:
            self.rebuilding = None
            self._tell_share(1)

    def _fill(self, make: Callable[[], Fresh], total: int) -> Fresh:
        fresh = make()

        def read(db: apsw.Connection) -> None:
            done = 0
            for block in self._reading.living(db, self._collection.number, REPLAY):
                if self._workers.shall_end:
                    raise Unavailable("The service stops while an index is being rebuilt.")
                self._tell(done, total)
                fresh.apply(block)
                done += len(block)

        self._database.read_here(read)
        return fresh

    def _tell(self, done: int, total: int) -> None:
        self.rebuilding = f"{self._reading.index} index is being rebuilt, {done:,} of {total:,} chunks"
        self._tell_share(done / total if total else 1)

    def _tell_share(self, share: float) -> None:
        self._share.labels(self._collection.name, self._reading.index).set(share)

    def read(self, what: Callable[[apsw.Connection, int], T]) -> T:
        """Something of the collection's log, in the calling thread."""
        return self._database.read_here(lambda db: what(db, self._collection.number))

    async def head(self) -> int:
        """The last change of the log."""
        return await self.in_thread(lambda: self.read(changelog.head))

    async def refuses(self, fresh: Follows[Any], since: int) -> str | None:
        """Why an index that was built anew since then can't be put in place: without all that came since, it would lack
        that for good. One of nothing bears no number."""
        return await self.in_thread(lambda: self.refusal(max(fresh.sequence, since)))

    def refusal(self, sequence: int) -> str | None:
        """Why the log does not lead on from this change, if it does not."""
        return refusal(sequence, self.read(changelog.floor), self.read(changelog.head))

    async def in_thread(self, work: Callable[[], T]) -> T:
        with self._database.room.needed():
            return await asyncio.get_running_loop().run_in_executor(self._workers.threads, work)

    def _step(self, index: Follows[Step]) -> bool:
        changes = self.read(lambda db, number: self._reading.next(db, number, index.sequence, REPLAY))
        index.apply(changes)
        return bool(changes)

    def _withdraw(self, index: Follows[Step]) -> None:
        """Take back what was added ahead and never published: its document was superseded or deleted meanwhile."""
        gone, self._ahead = self._database.read_here(lambda db: changelog.unpublished(db, self._ahead))
        index.apply([self._reading.step(index.sequence, chunk, None) for chunk in gone])
