"""Check: the truth is asked about itself, every index is held against it, and what is damaged can be built anew.

The service goes on meanwhile, and chunks on their way into an index, or out of it, are neither missing nor strays: what
is still to come in the log is left out, and what is wrong is looked at again: only what is wrong each time counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from threading import Event
from time import monotonic, sleep
from typing import TypeVar

import apsw
import structlog

from app.errors import Conflict, NotFound, Unavailable
from app.service.collections import Collections
from app.service.comparison import Difference, compare
from app.service.findings import PARTS, Finding, Report, of_index
from app.service.indexes import Kind, View
from app.service.shelf import Shelf
from app.stores import log, soundness
from app.stores.sqlite import Database

logger = structlog.get_logger()

LOOKS, LOOK_SECONDS = 3, 0.2
RESTING = 1
"""How long it rests after each block, as a multiple of what that took: searches have the cores."""

RENEWAL_SECONDS = 6 * 3600.0
STOPPED = "The service stopped before the check was done."

T = TypeVar("T")

STEPS = 100_000
"""Of SQLite's machine, between which a check may end."""


class Checks:
    """Makes one at a time, in the background, and knows of the last one."""

    def __init__(self, database: Database, collections: Collections) -> None:
        self._database = database
        self._collections = collections
        self._stopping = Event()
        self._task: asyncio.Task[None] | None = None
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        if self._report is None:
            raise NotFound("Nothing has been checked since the start: POST /check begins.")
        return self._report

    def begin(self, *, repair: bool) -> Report:
        if self._task is not None and not self._task.done():
            raise Conflict("A check is under way already: GET /check tells how far it is.")
        self._report = Report(repairs=repair)
        # A context of its own, since it outlives the request that began it.
        self._task = asyncio.create_task(self._run(self._report), name="check", context=Context())
        return self._report

    async def close(self) -> None:
        self._stopping.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, report: Report) -> None:
        try:
            await self._check(report)
            report.state = "done"
        except apsw.Error as error:
            report.give_up(error)
            report.state = "done"
        except Unavailable as error:
            report.state, report.error = "stopped", str(error)
        except Exception as error:  # whatever it is, a check that failed must not look like one that lasts
            logger.exception("the check failed")
            report.state, report.error = "failed", str(error)

    async def _check(self, report: Report) -> None:
        report.findings += await self._ask(lambda db: [Finding("database", each) for each in soundness.of_file(db)])
        for name, why in self._collections.troubles().items():
            report.findings.append(Finding("collection", why, name))
        for shelf in self._collections.shelves:
            report.collections += 1
            report.findings += await self._documents(shelf, report)
            for kind in PARTS:
                found = await self._index(shelf, kind, report)
                report.findings += await self._repair(shelf, kind, found, report) if report.repairs else found

    async def _documents(self, shelf: Shelf, report: Report) -> list[Finding]:
        collection = shelf.collection
        report.begin(f"{collection.name}: documents")
        told = await self._ask(
            lambda db: list(
                soundness.of_collection(db, collection.number, collection.dimensions, sparse=bool(collection.sparse))
            )
        )
        return [Finding("documents", each, collection.name) for each in told]

    async def _index(self, shelf: Shelf, kind: Kind, report: Report) -> list[Finding]:
        view = shelf.indexes.view(kind)
        if view is None:
            return []
        try:
            difference, flaw = await self._look(shelf, view, report, kind, None)
            for _ in range(LOOKS - 1):
                if not difference and not flaw:
                    break
                await asyncio.sleep(LOOK_SECONDS)
                other, again = await self._look(shelf, view, report, kind, difference)
                difference, flaw = difference & other, again and flaw
        except OSError:
            if self._is_there(shelf):
                raise
            return []  # its folder went while a graph was written there to be looked at
        return list(of_index(shelf.collection.name, kind, difference, flaw)) if self._is_there(shelf) else []

    def _is_there(self, shelf: Shelf) -> bool:
        """Whether it was not dropped meanwhile; a switch leaves its indexes to another shelf."""
        return any(each.indexes is shelf.indexes for each in self._collections.shelves)

    async def _look(
        self, shelf: Shelf, view: View, report: Report, kind: Kind, again: Difference | None
    ) -> tuple[Difference, str | None]:
        """All that is wrong at this moment; a second time only what was wrong is read again."""
        number = shelf.collection.number

        def look(db: apsw.Connection) -> tuple[Difference, str | None]:
            found = Difference()
            seen, ahead = view.index.sequence, list(view.ahead)
            for holding in view.holdings():
                report.begin(f"{shelf.collection.name}: {PARTS[kind]}", log.count_living(db, number))
                found |= compare(db, number, holding, Pace(report, self._stopping), again, seen, ahead)
            return found, view.flaw()

        return await self._ask(look)

    async def _repair(self, shelf: Shelf, kind: Kind, found: list[Finding], report: Report) -> list[Finding]:
        """Build a damaged index anew from the truth, and look whether that has helped."""
        if not found:
            return []
        report.begin(f"{shelf.collection.name}: building the index of {PARTS[kind]} anew")
        shelf.indexes.renew([kind])
        async with asyncio.timeout(RENEWAL_SECONDS):
            while shelf.indexes.is_renewing and self._is_there(shelf):
                if self._stopping.is_set():
                    raise Unavailable(STOPPED)
                shelf.indexer.wake()
                await asyncio.sleep(0.05)
        if not self._is_there(shelf):  # nobody puts in its place what was built
            return []
        left = await self._index(shelf, kind, report)
        logger.warning("index repaired", collection=shelf.collection.name, index=PARTS[kind], left=len(left))
        return [*(Finding(each.part, each.problem, each.collection, each.chunks, not left) for each in found), *left]

    async def _ask(self, work: Callable[[apsw.Connection], T]) -> T:
        """On a connection of its own, whose work ends when the service stops."""

        def ask(db: apsw.Connection) -> T:
            db.set_progress_handler(self._stopping.is_set, STEPS)
            try:
                return work(db)
            except apsw.InterruptError as error:
                raise Unavailable(STOPPED) from error

        return await self._database.read_apart(ask)


class Pace:
    """Counts what is compared, rests in between, and ends it when the service stops."""

    def __init__(self, report: Report, stopping: Event, resting: float = RESTING) -> None:
        self._report = report
        self._stopping = stopping
        self._resting = resting
        self._since = monotonic()

    def __call__(self, chunks: int) -> None:
        self._report.advance(chunks)
        if self._stopping.is_set():
            raise Unavailable(STOPPED)
        sleep(self._resting * (monotonic() - self._since))
        self._since = monotonic()
