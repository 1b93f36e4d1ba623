"""Collections: create, find, describe, drop; each open one has its models, its index and the task that feeds it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import apsw
import structlog

from app.caller import caller
from app.errors import Conflict, Damaged, Forbidden, Invalid, NoSpace, NotFound, TooLarge, Unavailable
from app.service.closed import Closed
from app.service.copier import Copier
from app.service.follower import Workers
from app.service.indexer import Indexer
from app.service.indexes import Indexes
from app.service.models import Models
from app.service.reader import Reader
from app.service.shelf import Shelf
from app.service.tools import Tools, check_fingerprints, check_sparse, fingerprint, late_mark
from app.settings import Settings
from app.stages.chunk import Chunker
from app.stores import collections as rows
from app.stores import standby
from app.stores.collections import Contents
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import STANDBY, Collection, Recipe
from models.words import Language

logger = structlog.get_logger()

DEFAULT = "default"

ROOM_SECONDS = 5.0
"""Pause before another try to open a collection where the disk is full."""

REBUILDING_THREADS = 2
"""Rebuilds wait for one another, and nobody else for them."""


@dataclass(frozen=True, slots=True)
class Description:
    """What there is to know of a collection."""

    collection: Collection
    contents: Contents
    index_chunks: int
    lexical_chunks: int
    sparse_chunks: int
    index_bytes: int
    index_ef: int
    sparse_bytes: int
    sequence: int
    lag: int
    trouble: str | None
    shelf: Shelf | None
    """None while it is closed."""


class Collections:
    """All collections of the service, and which of them are open."""

    def __init__(
        self,
        database: Database,
        models: Models,
        folder: Path,
        settings: Settings,
        metrics: Metrics,
        threads: Executor,
    ) -> None:
        self._database = database
        self._models = models
        self._folder = folder
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._shelves: dict[str, Shelf] = {}
        self._closed = Closed(self._shelves)
        self._changing = asyncio.Lock()
        self._rebuilding = ThreadPoolExecutor(REBUILDING_THREADS, "rebuild")
        self._workers = Workers(threads, self._rebuilding, Event())

    async def open(self) -> None:
        """Open all there are; one that can't be opened says why to whoever asks for it, and the others go on."""
        async with self._changing:  # from here on none of them can be dropped before it is open
            held = await self._database.read(rows.every)
            self._closed.opening |= {each.name: None for each in held}
            left = {*self._folder.glob("*")} - {self._folder / str(each.number) for each in held}
        for name in {DEFAULT, *self._closed.opening}:
            self._closed[name] = Unavailable(f"Collection '{name}' is being opened.")
        await asyncio.to_thread(self._sweep, left)
        first = [] if DEFAULT in {each.name for each in held} else [self._open_default()]
        await asyncio.gather(*first, *(self._open(each) for each in held))

    def stop(self) -> None:
        """Let whatever takes long come to an early end."""
        self._workers.stopping.set()

    async def close(self) -> None:
        for shelf in self._shelves.values():
            await shelf.end()
        for shelf in self._shelves.values():
            await shelf.indexes.close()
        await asyncio.to_thread(self._rebuilding.shutdown)

    async def save(self) -> None:
        """Have the indexes of all that are open saved as they are."""
        await asyncio.gather(*(shelf.indexer.save() for shelf in self._shelves.values()))

    def troubles(self) -> dict[str, str]:
        """Why some collections do not answer, or do not take in what waits."""
        stuck = {name: shelf.trouble for name, shelf in self._shelves.items()}
        return self._closed.troubles() | {name: why for name, why in stuck.items() if why}

    @property
    def shelves(self) -> list[Shelf]:
        """Those that are open."""
        return list(self._shelves.values())

    @property
    def opened(self) -> Mapping[str, Shelf]:
        """Those that are open, by name: for work that nobody asked for, whoever's request it is done in."""
        return self._shelves

    def shelf(self, name: str) -> Shelf:
        """A collection that a caller may not see is to them one that is not there."""
        if not caller().sees(name):
            raise _missing(name)
        if name in self._shelves:
            caller().deed.touch(name)
            return self._shelves[name]
        if name in self._closed:
            raise self._closed.error(name)
        raise _missing(name)

    def has(self, name: str) -> bool:
        """Whether it is there, be it open or not."""
        return name in self._shelves or name in self._closed

    def is_given_up(self, name: str) -> bool:
        """Whether it can't be opened, and nobody tries any more."""
        return caller().sees(name) and self._closed.is_given_up(name)

    def taking(self, name: str) -> Shelf:
        """A collection that documents and feedback are given to: no standby, which has them from what it follows."""
        shelf = self.shelf(name)
        if shelf.collection.is_standby:
            served = name.removesuffix(STANDBY)
            raise Conflict(f"'{name}' takes over what '{served}' has: ingest, delete and judge there.")
        return shelf

    async def current(self, shelf: Shelf) -> Shelf:
        """What has the place of a collection that took documents in: another one, if there was a switch since."""
        await shelf.intake.wait()
        if not shelf.collection.is_standby:
            return shelf
        return self._shelves.get(shelf.collection.name.removesuffix(STANDBY), shelf)

    async def create(
        self,
        name: str,
        encoder: str | None = None,
        reranker: str | None = None,
        recipe: Recipe | None = None,
        language: Language | None = None,
        sparse: str | None = None,
        late: bool | None = None,
        *,
        follows: int | None = None,
    ) -> Collection:
        """A new collection; what is not said comes from the settings. A sparse encoder without a name is none."""
        encoder, reranker = encoder or self._settings.encoder, reranker or self._settings.reranker
        sparse = self._settings.sparse if sparse is None else sparse
        recipe, language = recipe or self.default_recipe(), language or self._settings.language
        if not caller().sees(name):
            raise Forbidden(f"This key ({caller().name}) is limited to other collections than '{name}'.")
        async with self._changing:
            if self.has(name):
                raise Conflict(f"There is a collection '{name}' already. Drop it first, or take another name.")
            if len(self._shelves) + len(self._closed) >= self._settings.max_collections:
                raise TooLarge(f"There are {self._settings.max_collections} collections, the most that are allowed.")
            tools = await self._tools(encoder, reranker, sparse, recipe)
            model, weighing = tools.embedder.encoder, tools.weigher
            marks = fingerprint(model, recipe), fingerprint(weighing.encoder, recipe) if weighing else ""
            tokens = late_mark(model, late, self._settings.late)
            made = name, encoder, reranker, recipe, model.dimensions, marks[0], language, sparse, marks[1], tokens
            collection = await self._database.write(lambda db: _insert(db, made, follows))
            caller().deed.touch(name)
            try:
                await self._shelve(collection, tools)
            except Exception as error:  # whatever it is: its name is not taken by what nobody can use
                self._closed[name] = error  # to be dropped later, if there is no room for that either
                await self._database.write(lambda db: rows.drop(db, collection.number))
                del self._closed[name]
                raise
            finally:
                self._closed.opening.pop(name, None)
            return collection

    async def every(self) -> list[Description]:
        held = await self._database.read(rows.every)
        return [await self._describe(collection) for collection in held if caller().sees(collection.name)]

    async def describe(self, name: str) -> Description:
        for collection in await self._database.read(rows.every):
            if collection.name == name and caller().sees(name):
                return await self._describe(collection)
        raise _missing(name)

    async def drop(self, name: str) -> None:
        async with self._changing:
            held = {each.name: each for each in await self._database.read(rows.every)}
            if name not in held or not caller().sees(name):
                raise _missing(name)
            gone = [each for each in (f"{name}{STANDBY}", name) if each in held]
            for each in gone:
                if each in self._closed.opening:
                    raise Unavailable(f"Collection '{each}' is being opened. Drop it when it is open.")
            for each in gone:
                await self._drop(held[each])
            caller().deed.touch(name)

    def changing(self) -> asyncio.Lock:
        """Held by whoever makes, drops or switches collections."""
        return self._changing

    async def trade_places(self, name: str, overrules: str) -> None:
        """Let a collection and its standby be what the truth has made of them already."""
        standby = f"{name}{STANDBY}"
        old, new = self._shelves.pop(name, None), self._shelves.pop(standby)
        new.collection.name, new.collection.follows, new.collection.overrules = name, None, overrules
        self._shelves[name] = replace(new, copier=None)
        if old is None:
            del self._closed[name]
            self._closed[standby] = Unavailable(f"Collection '{standby}' is closed until the next start.")
        else:
            old.collection.name, old.collection.follows = standby, new.collection.number
            self._shelves[standby] = replace(old, copier=self._copier(old.collection, old.chunker, old.indexer))
        if new.copier:
            await new.copier.close()
        if old and (copier := self._shelves[standby].copier):
            copier.start()

    async def _drop(self, collection: Collection) -> None:
        name = collection.name
        await self._database.write(lambda db: rows.drop(db, collection.number))
        shelf = self._shelves.pop(name, None)
        self._closed.pop(name, None)
        if shelf is not None:
            await shelf.end(NotFound(f"Collection '{name}' was dropped meanwhile."))
        await (shelf.indexes if shelf else self._indexes(collection)).discard()
        self._metrics.forget(name)

    def _sweep(self, folders: set[Path]) -> None:
        """Remove the folders of collections that were dropped when the process was killed: no number comes back."""
        for folder in (each for each in folders if each.name.isdigit()):
            shutil.rmtree(folder, ignore_errors=True)

    def default_recipe(self) -> Recipe:
        return replace(Recipe(), chunk_tokens=self._settings.chunk_tokens, overlap_tokens=self._settings.overlap_tokens)

    async def _open_default(self) -> None:
        """There is always one collection, unless the settings don't fit the models."""
        try:
            await self._when_there_is_room(DEFAULT, self._create_default)
        except Invalid as error:
            reasons = "; ".join(f"{fault.pointer} {fault.detail}" for fault in error.faults)
            logger.error("collection stays closed", collection=DEFAULT, reason=f"{error} {reasons}")
            self._closed[DEFAULT] = Unavailable(f"{error} {reasons}")

    async def _create_default(self) -> None:
        del self._closed[DEFAULT]
        await self.create(DEFAULT)

    async def _open(self, collection: Collection) -> None:
        name = collection.name
        try:
            await self._when_there_is_room(name, lambda: self._open_as_asked_for(collection))
            del self._closed[name]
        except (Invalid, Conflict, Damaged) as error:
            logger.error("collection stays closed", collection=name, reason=str(error))
            self._closed[name] = error if isinstance(error, Conflict) else Unavailable(str(error))
        except Exception as error:  # whatever it is: the others go on
            if not self._workers.stopping.is_set():
                logger.exception("collection stays closed", collection=name)
            self._closed[name] = Unavailable(f"Collection '{name}' can't be opened: {error!r}. The log says more.")
        finally:
            self._closed.opening.pop(name, None)

    async def _when_there_is_room(self, name: str, opens: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await opens()
            except NoSpace as error:
                self._closed[name] = error
                await asyncio.sleep(ROOM_SECONDS)

    async def _open_as_asked_for(self, collection: Collection) -> None:
        collection = await self._with_reranker_asked_for(collection)
        asked = self._encoders_asked_for(collection)
        check_sparse(collection, asked[1])
        tools = await self._tools(asked[0], collection.reranker, asked[1], collection.recipe)
        check_fingerprints(collection, tools)
        await self._shelve(collection, tools)

    def _encoders_asked_for(self, collection: Collection) -> tuple[str, str]:
        """The default collection follows the settings, so that a changed one is noticed rather than ignored."""
        given = self._settings if self._follows_settings(collection) else collection
        return given.encoder, given.sparse

    def _follows_settings(self, collection: Collection) -> bool:
        """A switch goes before settings that are still what they were then."""
        return collection.name == DEFAULT and collection.overrules != self._settings.models

    async def _with_reranker_asked_for(self, collection: Collection) -> Collection:
        """The same for the reranker, which leaves no trace in vectors: the collection takes the new one."""
        asked = self._settings.reranker
        if not self._follows_settings(collection) or collection.reranker == asked:
            return collection
        logger.info("reranker changed", collection=DEFAULT, before=collection.reranker, now=asked)
        await self._database.write(lambda db: rows.set_reranker(db, collection.number, asked))
        return replace(collection, reranker=asked)

    async def _tools(self, encoder: str, reranker: str, sparse: str, recipe: Recipe) -> Tools:
        embedder, ranker = await self._models.embedder(encoder), await self._models.ranker(reranker)
        weigher = await self._models.weigher(sparse) if sparse else None
        weighing = weigher.encoder if weigher else None
        chunker = Chunker(recipe, embedder.encoder, ranker.reranker, self._settings.query_reserve, weighing)
        return Tools(embedder, ranker, weigher, chunker)

    async def _shelve(self, collection: Collection, tools: Tools) -> None:
        indexes = self._closed.opening[collection.name] = self._indexes(collection)
        await indexes.open()
        embedder, weigher = tools.embedder, tools.weigher
        indexer = Indexer(self._database, collection, embedder, indexes, self._metrics, self._threads, weigher)
        reader = Reader(self._database, collection, tools.ranker.reranker, self._threads, self._metrics)
        copier = self._copier(collection, tools.chunker, indexer)
        shelf = Shelf(collection, embedder, tools.ranker, tools.chunker, indexes, indexer, reader, weigher, copier)
        self._shelves[collection.name] = shelf
        shelf.start()

    def _copier(self, collection: Collection, chunker: Chunker, indexer: Indexer) -> Copier | None:
        if not collection.is_standby:
            return None
        return Copier(self._database, collection, chunker, indexer, self._metrics, self._threads)

    def _indexes(self, collection: Collection) -> Indexes:
        folder = self._folder / str(collection.number)
        return Indexes(self._database, collection, folder, self._settings, self._metrics, self._workers)

    async def _describe(self, collection: Collection) -> Description:
        contents = await self._database.read(lambda db: rows.contents(db, collection.number))
        shelf = self._shelves.get(collection.name)
        index = shelf.indexes.dense.index if shelf else None
        sparse = shelf.indexes.sparse.index if shelf and shelf.indexes.sparse else None
        return Description(
            collection,
            contents,
            len(index) if index else 0,
            len(shelf.indexes.lexical.index) if shelf else 0,
            len(sparse) if sparse else 0,
            index.nbytes if index else 0,
            index.ef if index else 0,
            sparse.nbytes if sparse else 0,
            index.sequence if index else 0,
            contents.pending,
            self.troubles().get(collection.name),
            shelf,
        )


def _insert(db: apsw.Connection, made: tuple[Any, ...], follows: int | None) -> Collection:
    collection = rows.insert(db, *made)
    if follows is not None:
        if not rows.exists(db, follows):
            raise NotFound("The collection was dropped meanwhile.")
        standby.begin(db, collection.number, follows)
        collection.follows = follows
    return collection


def _missing(name: str) -> NotFound:
    return NotFound(f"There is no collection '{name}'. Create it with POST /collections.")
