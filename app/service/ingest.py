"""Ingest: chunk → commit to the truth → (indexer: embed → publish → index). Acknowledged means committed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import apsw
import orjson

from app.allowance import at_least
from app.caller import caller
from app.errors import Fault, InvalidDocuments, NotFound
from app.service.collections import Collections
from app.service.shelf import Shelf
from app.stores import collections, documents, jobs, listing
from app.stores.documents import Put, Stored
from app.stores.filters import Filter, matching_documents
from app.stores.listing import Listed
from app.stores.sqlite import Database
from app.telemetry import Metrics, Stopwatch
from app.types import Chunk, Document, Job, Metadata

Done = TypeVar("Done")

Chosen: TypeAlias = "list[str] | Filter"
"""Documents by their ids, or those that a filter allows."""

Change = Callable[[str, Metadata], Metadata]
"""Of a document's metadata, by its id."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job by its number and its id, and how much it was given so far."""

    number: int
    id: str
    documents: int = 0


def content_id(title: str, text: str, metadata: object, form: str) -> str:
    """The id of a document whose caller gave none: the same content gets the same one."""
    told = [title, text, metadata, *([form] if form != "plain" else [])]
    content = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


class _Switched(Exception):
    """The collection became a standby in the meantime: another one is in its place."""


class Ingest:
    """Takes documents in, and out again."""

    def __init__(self, database: Database, collections: Collections, metrics: Metrics, threads: Executor) -> None:
        self._database = database
        self._collections = collections
        self._metrics = metrics
        self._threads = threads

    async def take(
        self, shelf: Shelf, batch: Sequence[Document], job: Ticket | None = None
    ) -> tuple[Ticket, list[Put]]:
        """Acknowledge all of these or none: when this returns they are on disk, and a job makes them searchable."""
        return await self._in_place(shelf, lambda current: self._take(current, batch, job))

    async def _in_place(self, shelf: Shelf, work: Callable[[Shelf], Awaitable[Done]]) -> Done:
        """Do it to whatever has the collection's place by then."""
        while True:
            with suppress(_Switched):
                return await work(await self._collections.current(shelf))

    async def _take(self, shelf: Shelf, batch: Sequence[Document], job: Ticket | None) -> tuple[Ticket, list[Put]]:
        watch = Stopwatch(self._metrics, "ingest")
        with watch.stage("chunk"):
            chunks = await self._chunk(shelf, batch, going_on=job is not None)
        paid = await _pay(shelf, chunks.values(), going_on=job is not None)
        number = shelf.collection.number

        def split(document: Document) -> Sequence[Chunk]:
            return chunks[id(document)] if id(document) in chunks else shelf.chunker.split(document)

        def commit(db: apsw.Connection) -> tuple[Ticket, list[Put]]:
            _check_there(db, shelf)
            ticket = job or Ticket(*jobs.begin(db, number))
            ticket = replace(ticket, documents=ticket.documents + len(batch))
            jobs.grow(db, ticket.number, ticket.id, number, ticket.documents)
            return ticket, [documents.put(db, number, ticket.number, document, split) for document in batch]

        try:
            with watch.stage("commit"):
                ticket, puts = await self._database.write(commit)
        except Exception:  # whatever kept them from being taken in: nothing of them will be read
            caller().meter.refund(paid)
            raise
        caller().deed.touch(shelf.collection.name, len(puts))
        for put in puts:
            self._metrics.documents.labels(put.outcome).inc()
        shelf.indexer.wake()
        return ticket, puts

    async def settled(self, shelf: Shelf, ticket: Ticket, through: int) -> dict[str, str]:
        """Wait until a job's documents can be found, up to this version; says which failed, and why."""
        shelf = await self._collections.current(shelf)
        await shelf.indexer.settled(through)

        def failures(db: apsw.Connection) -> dict[str, str]:
            _check_exists(db, shelf)
            return jobs.failures(db, ticket.number)

        return await self._database.read(failures)

    async def failures(self, ticket: Ticket, after: int, through: int) -> tuple[int, dict[str, str]]:
        """How many of a job's documents failed that came behind a version, up to another; the first with the reason."""
        return await self._database.read(lambda db: jobs.failures_among(db, ticket.number, after, through))

    async def job(self, job: str) -> Job:
        found = await self._database.read(lambda db: jobs.find(db, job))
        if found is None or not caller().sees(found.collection):
            raise NotFound(f"There is no job '{job}'. Finished jobs are forgotten after {jobs.JOBS_KEPT} later ones.")
        return found

    async def document(self, shelf: Shelf, document: str) -> Stored:
        stored = await self._database.read(lambda db: documents.find(db, shelf.collection.number, document))
        if stored is None:
            raise NotFound(f"There is no document '{document}' in collection '{shelf.collection.name}'.")
        return stored

    async def page(
        self, shelf: Shelf, wanted: Filter | None, after: int, most: int, *, texts: bool
    ) -> tuple[list[Listed], bool]:
        """Documents behind a version, and whether there are more."""
        number = shelf.collection.number
        return await self._database.read(lambda db: listing.page(db, number, wanted, after, most, texts=texts))

    async def delete(self, shelf: Shelf, chosen: Chosen) -> list[str]:
        """Delete for good; says which of them there were."""
        return await self._in_place(shelf, lambda current: self._delete(current, chosen))

    async def _delete(self, shelf: Shelf, chosen: Chosen) -> list[str]:
        number = shelf.collection.number

        def delete(db: apsw.Connection) -> list[str]:
            _check_there(db, shelf)
            return documents.delete(db, number, _ids(db, number, chosen))

        deleted = await self._database.write(delete)
        caller().deed.touch(shelf.collection.name, len(deleted))
        self._metrics.documents.labels("deleted").inc(len(deleted))
        shelf.indexer.wake()
        return deleted

    async def amend(self, shelf: Shelf, chosen: Chosen, change: Change) -> dict[str, bool]:
        """Change the metadata of documents; tells of those that there are whether it was other metadata before."""
        return await self._in_place(shelf, lambda current: self._amend(current, chosen, change))

    async def _amend(self, shelf: Shelf, chosen: Chosen, change: Change) -> dict[str, bool]:
        number = shelf.collection.number

        def amend(db: apsw.Connection) -> dict[str, bool]:
            _check_there(db, shelf)
            return documents.amend(db, number, _ids(db, number, chosen), change)

        amended = await self._database.write(amend)
        for changed, outcome in ((True, "updated"), (False, "unchanged")):
            self._metrics.documents.labels(outcome).inc(list(amended.values()).count(changed))
        caller().deed.touch(shelf.collection.name, len(amended))
        shelf.indexer.wake()
        return amended

    async def _chunk(self, shelf: Shelf, batch: Sequence[Document], *, going_on: bool) -> dict[int, list[Chunk]]:
        """Chunks of those documents whose content is not held already; nothing is split for a caller who can't pay."""
        ids, number = [document.id for document in batch], shelf.collection.number
        known = await self._database.read(lambda db: documents.known_contents(db, number, ids))
        new = await self._in_thread(_new, batch, known)
        if not going_on:
            caller().meter.expect(at_least(document.text for document in new.values()))
        return await self._in_thread(_split, shelf, new)

    async def _in_thread(self, work: Callable[..., Done], *given: object) -> Done:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)


async def _pay(shelf: Shelf, chunks: Collection[Sequence[Chunk]], *, going_on: bool) -> int:
    """What the encoders will read. A stream that was let in goes on at the pace of its caller's allowance."""
    encoders = 2 if shelf.weigher else 1
    tokens = encoders * sum(chunk.tokens for each in chunks for chunk in each)
    if tokens and going_on:
        await caller().meter.save_up(tokens)
    elif tokens:
        caller().meter.pay(tokens)
    return tokens


def _ids(db: apsw.Connection, collection: int, chosen: Chosen) -> list[str]:
    if isinstance(chosen, list):
        return chosen
    return documents.of_versions(db, collection, matching_documents(db, chosen, collection))


def _check_there(db: apsw.Connection, shelf: Shelf) -> None:
    _check_exists(db, shelf)
    if collections.follows(db, shelf.collection.number):
        raise _Switched


def _check_exists(db: apsw.Connection, shelf: Shelf) -> None:
    if not collections.exists(db, shelf.collection.number):
        raise NotFound(f"Collection '{shelf.collection.name}' was dropped meanwhile.")


def _new(batch: Sequence[Document], known: Mapping[str, set[bytes]]) -> dict[int, Document]:
    """Those whose content is not known, by their places."""
    return {
        position: document
        for position, document in enumerate(batch)
        if documents.content_hash(document) not in known.get(document.id, ())
    }


def _split(shelf: Shelf, new: Mapping[int, Document]) -> dict[int, list[Chunk]]:
    """Chunks of each document; whatever can't be chunked is named all at once."""
    chunks: dict[int, list[Chunk]] = {}
    faults: list[Fault] = []
    for position, document in new.items():
        try:
            chunks[id(document)] = shelf.chunker.split(document)
        except InvalidDocuments as error:
            faults += [Fault(f"/documents/{position}{fault.pointer}", fault.detail) for fault in error.faults]
    if faults:
        raise InvalidDocuments("Some documents can't be chunked.", faults)
    return chunks
