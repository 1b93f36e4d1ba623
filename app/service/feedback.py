"""Feedback: what people made of answers is checked against what there is, kept, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apsw

from app.errors import Fault, Invalid, NoSpace, NotFound, TooLarge, Unavailable
from app.service.shelf import Shelf
from app.stores import collections
from app.stores import feedback as rows
from app.stores.feedback import Kind, Outcome, Target, Totals
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection


@dataclass(frozen=True, slots=True)
class Opinion:
    """What somebody made of a document, or of a chunk of one, as the answer to a query."""

    place: str
    """Where in the request it stands."""
    collection: Collection
    query: str
    document: str | None
    chunk: int | None
    kind: Kind
    grade: int
    request: str
    """Of which search; the same one's later opinion replaces its earlier one."""

    @property
    def label(self) -> str:
        return "clicked" if self.kind == "clicked" else "relevant" if self.grade else "irrelevant"


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of an opinion."""

    document: str
    outcome: Outcome


class Feedback:
    """Keeps what people made of answers."""

    def __init__(self, database: Database, metrics: Metrics, most: int) -> None:
        self._database = database
        self._metrics = metrics
        self._most = most
        self._counts: dict[int, int] = {}
        """Of the collections that were given any: it is counted once, and then where feedback is written."""

    async def add(self, opinions: Sequence[Opinion]) -> list[Kept]:
        """All of them, or none: what is not there is named."""

        def commit(db: apsw.Connection) -> list[Kept]:
            _check_collections(db, {each.collection for each in opinions})
            targets = _targets(db, opinions)
            kept = [_put(db, each, target) for each, target in zip(opinions, targets, strict=True)]
            self._count(db, _created(opinions, kept))
            return kept

        try:
            kept = await self._database.write(commit)
        except (apsw.Error, NoSpace):  # it was counted, and perhaps not kept
            self.recount(each.collection.number for each in opinions)
            raise
        for each in _created(opinions, kept):
            self._metrics.feedback.labels(each.collection.name, each.label).inc()
        return kept

    async def totals(self, shelf: Shelf) -> Totals:
        return await self._database.read(lambda db: rows.totals(db, shelf.collection.number))

    async def forget(self, shelf: Shelf) -> int:
        """Remove all of a collection; says how much it was."""
        number = shelf.collection.number

        def remove(db: apsw.Connection) -> int:
            removed = rows.remove(db, number)
            self._counts.pop(number, None)
            return removed

        return await self._database.write(remove)

    def recount(self, collections: Iterable[int]) -> None:
        """What was counted of these does not hold any more."""
        for number in collections:
            self._counts.pop(number, None)

    def _count(self, db: apsw.Connection, created: Sequence[Opinion]) -> None:
        """Once it is known what is new of what was sent: where that is too much, nothing of it stays."""
        counts = {}
        for collection, more in Counter(each.collection for each in created).items():
            held = self._held(db, collection.number, more)
            counts[collection.number] = held + more
            if held + more > self._most:
                raise TooLarge(
                    f"Collection '{collection.name}' has {held:,} pieces of feedback, and {self._most:,} are allowed. "
                    "Export what there is, then DELETE /feedback."
                )
        self._counts |= counts

    def _held(self, db: apsw.Connection, collection: int, more: int) -> int:
        """How much there was before so much more. Looked up once: another thread may forget it at any moment."""
        held = self._counts.get(collection)
        if held is None:
            held = self._counts[collection] = rows.count(db, collection) - more
        return held


def _check_collections(db: apsw.Connection, given: Iterable[Collection]) -> None:
    for collection in given:
        if not collections.exists(db, collection.number):
            raise NotFound(f"Collection '{collection.name}' was dropped meanwhile.")
        if collections.follows(db, collection.number):
            raise Unavailable("The collection was switched to other models meanwhile. Send it again.")


def _created(opinions: Sequence[Opinion], kept: Sequence[Kept]) -> list[Opinion]:
    return [each for each, one in zip(opinions, kept, strict=True) if one.outcome == "created"]


def _put(db: apsw.Connection, opinion: Opinion, target: Target) -> Kept:
    number, request = opinion.collection.number, opinion.request
    return Kept(target.document, rows.put(db, number, opinion.query, target, opinion.kind, opinion.grade, request))


def _targets(db: apsw.Connection, opinions: Sequence[Opinion]) -> list[Target]:
    found = [_target(db, each) for each in opinions]
    faults = [each for each in found if isinstance(each, Fault)]
    if faults:
        raise Invalid("Nothing was kept: some of it is about what is not there.", faults)
    return [each for each in found if isinstance(each, Target)]


def _target(db: apsw.Connection, opinion: Opinion) -> Target | Fault:
    """A chunk that was replaced since the search says nothing any more; its document, if it was named, does."""
    number, place = opinion.collection.number, opinion.place
    chunk = rows.chunk(db, number, opinion.chunk) if opinion.chunk is not None else None
    if opinion.document is None:
        return chunk or Fault(f"{place}/chunk", "is no chunk of this collection (any more): name its document")
    document = rows.document(db, number, opinion.document)
    if document is None:
        return Fault(f"{place}/document", "is no document of this collection: ingest it first, or check its id")
    if chunk and chunk.document != document.document:
        return Fault(f"{place}/chunk", "is a chunk of another document: leave one of them out")
    return chunk or document
