"""Collections: create, find, describe, drop; each open one has its models, its index and the task that feeds it."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event

import orjson
import structlog

from app.errors import Conflict, EncoderMismatch, Invalid, NotFound, TooLarge, Unavailable
from app.service.indexer import Indexer
from app.service.indexes import Indexes
from app.service.models import Models
from app.service.reader import Reader
from app.settings import Settings
from app.stages.chunk import Chunker
from app.stages.embed import Embedder
from app.stages.rerank import Ranker
from app.stages.weigh import Weigher
from app.stores import collections as rows
from app.stores.collections import Contents
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection, Recipe
from models.folder import Kind, title
from models.types import BiEncoder, SparseEncoder
from models.words import Language

logger = structlog.get_logger()

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Shelf:
    """A collection that is open: what every use-case needs to work on it."""

    collection: Collection
    embedder: Embedder
    ranker: Ranker
    chunker: Chunker
    indexes: Indexes
    indexer: Indexer
    reader: Reader
    weigher: Weigher | None = None
    """None in a collection without sparse vectors."""


@dataclass(frozen=True, slots=True)
class Description:
    """What there is to know of a collection."""

    collection: Collection
    contents: Contents
    index_chunks: int
    lexical_chunks: int
    sparse_chunks: int
    index_bytes: int
    sparse_bytes: int
    sequence: int
    lag: int
    trouble: str | None
    shelf: Shelf | None
    """None while it is closed."""


@dataclass(frozen=True, slots=True)
class Tools:
    """A collection's models, and what cuts its documents for them."""

    embedder: Embedder
    ranker: Ranker
    weigher: Weigher | None
    chunker: Chunker


def fingerprint(encoder: BiEncoder | SparseEncoder, recipe: Recipe) -> str:
    """Hash of all that shapes a collection's vectors: two collections with the same one can share them."""
    return hashlib.sha256(orjson.dumps([encoder.fingerprint, asdict(recipe)])).hexdigest()


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
        self._closed: dict[str, Exception] = {}
        self._changing = asyncio.Lock()
        self._stopping = Event()

    async def open(self) -> None:
        """Open all there are; one that can't be opened says why to whoever asks for it, and the others go on."""
        held = await self._database.read(rows.every)
        for name in {DEFAULT, *(each.name for each in held)}:
            self._closed[name] = Unavailable(f"Collection '{name}' is being opened.")
        for each in held:
            await self._open(each)
        if DEFAULT not in {each.name for each in held}:
            await self._open_default()

    def stop(self) -> None:
        """Let whatever takes long come to an early end."""
        self._stopping.set()

    async def close(self) -> None:
        for shelf in self._shelves.values():
            await shelf.reader.close()
            await shelf.indexer.close()
        for shelf in self._shelves.values():
            await shelf.indexes.close()

    def troubles(self) -> dict[str, str]:
        """Why some collections do not answer, or do not take in what waits."""
        stuck = {name: shelf.indexer.trouble for name, shelf in self._shelves.items() if shelf.indexer.trouble}
        return {name: str(error) for name, error in self._closed.items()} | {k: v for k, v in stuck.items() if v}

    def shelf(self, name: str) -> Shelf:
        if name in self._shelves:
            return self._shelves[name]
        if name in self._closed:
            raise self._closed[name]
        raise NotFound(f"There is no collection '{name}'. Create it with POST /collections.")

    async def create(
        self,
        name: str,
        encoder: str | None = None,
        reranker: str | None = None,
        recipe: Recipe | None = None,
        language: Language | None = None,
        sparse: str | None = None,
    ) -> Collection:
        """A new collection; what is not said comes from the settings. A sparse encoder without a name is none."""
        encoder, reranker = encoder or self._settings.encoder, reranker or self._settings.reranker
        sparse = self._settings.sparse if sparse is None else sparse
        recipe, language = recipe or self.default_recipe(), language or self._settings.language
        async with self._changing:
            if name in self._shelves or name in self._closed:
                raise Conflict(f"There is a collection '{name}' already. Drop it first, or take another name.")
            if len(self._shelves) + len(self._closed) >= self._settings.max_collections:
                raise TooLarge(f"There are {self._settings.max_collections} collections, the most that are allowed.")
            tools = await self._tools(encoder, reranker, sparse, recipe)
            model, weighing = tools.embedder.encoder, tools.weigher
            marks = fingerprint(model, recipe), fingerprint(weighing.encoder, recipe) if weighing else ""
            collection = await self._database.write(
                lambda db: rows.insert(
                    db, name, encoder, reranker, recipe, model.dimensions, marks[0], language, sparse, marks[1]
                )
            )
            await self._shelve(collection, tools)
            return collection

    async def every(self) -> list[Description]:
        return [await self._describe(collection) for collection in await self._database.read(rows.every)]

    async def describe(self, name: str) -> Description:
        for collection in await self._database.read(rows.every):
            if collection.name == name:
                return await self._describe(collection)
        raise NotFound(f"There is no collection '{name}'.")

    async def drop(self, name: str) -> None:
        async with self._changing:
            held = {each.name: each for each in await self._database.read(rows.every)}
            if name not in held:
                raise NotFound(f"There is no collection '{name}'.")
            shelf = self._shelves.pop(name, None)
            self._closed.pop(name, None)
            if shelf is not None:
                await shelf.reader.close()
                await shelf.indexer.close(NotFound(f"Collection '{name}' was dropped meanwhile."))
            await self._database.write(lambda db: rows.drop(db, held[name].number))
            await (shelf.indexes if shelf else self._indexes(held[name])).discard()

    def default_recipe(self) -> Recipe:
        return replace(Recipe(), chunk_tokens=self._settings.chunk_tokens, overlap_tokens=self._settings.overlap_tokens)

    async def _open_default(self) -> None:
        """There is always one collection, unless the settings don't fit the models."""
        del self._closed[DEFAULT]
        try:
            await self.create(DEFAULT)
        except Invalid as error:
            reasons = "; ".join(f"{fault.pointer} {fault.detail}" for fault in error.faults)
            logger.error("collection stays closed", collection=DEFAULT, reason=f"{error} {reasons}")
            self._closed[DEFAULT] = Unavailable(f"{error} {reasons}")

    async def _open(self, collection: Collection) -> None:
        try:
            collection = await self._with_reranker_asked_for(collection)
            asked = self._encoders_asked_for(collection)
            _check_sparse(collection, asked[1])
            tools = await self._tools(asked[0], collection.reranker, asked[1], collection.recipe)
            _check_fingerprints(collection, tools)
            await self._shelve(collection, tools)
            del self._closed[collection.name]
        except (Invalid, EncoderMismatch) as error:
            logger.error("collection stays closed", collection=collection.name, reason=str(error))
            self._closed[collection.name] = error if isinstance(error, Conflict) else Unavailable(str(error))

    def _encoders_asked_for(self, collection: Collection) -> tuple[str, str]:
        """The default collection follows the settings, so that a changed one is noticed rather than ignored."""
        given = self._settings if collection.name == DEFAULT else collection
        return given.encoder, given.sparse

    async def _with_reranker_asked_for(self, collection: Collection) -> Collection:
        """The same for the reranker, which leaves no trace in vectors: the collection takes the new one."""
        asked = self._settings.reranker
        if collection.name != DEFAULT or collection.reranker == asked:
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
        indexes = self._indexes(collection)
        await indexes.open()
        embedder, weigher = tools.embedder, tools.weigher
        indexer = Indexer(self._database, collection, embedder, indexes, self._metrics, self._threads, weigher)
        reader = Reader(self._database, collection, tools.ranker.reranker, self._threads)
        self._shelves[collection.name] = Shelf(
            collection, embedder, tools.ranker, tools.chunker, indexes, indexer, reader, weigher
        )
        indexer.start()
        reader.start()

    def _indexes(self, collection: Collection) -> Indexes:
        folder = self._folder / str(collection.number)
        return Indexes(self._database, collection, folder, self._settings, self._metrics, self._threads, self._stopping)

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
            sparse.nbytes if sparse else 0,
            index.sequence if index else 0,
            contents.pending,
            self.troubles().get(collection.name),
            shelf,
        )


def _check_sparse(collection: Collection, asked: str) -> None:
    """Refuse to begin with sparse vectors, or to leave them out, where documents are there already."""
    if bool(collection.sparse) == bool(asked):
        return
    has, names, again = (
        (f"has sparse vectors of '{collection.sparse}'", "no sparse encoder", f"with WINNOW_SPARSE={collection.sparse}")
        if collection.sparse
        else ("has no sparse vectors", f"'{asked}' to make some", "without WINNOW_SPARSE")
    )
    raise EncoderMismatch(
        f"Collection '{collection.name}' {has}, and the settings name {names}. Start {again}, or create another "
        "collection as you want it and ingest the documents there, or drop this one."
    )


def _check_fingerprints(collection: Collection, tools: Tools) -> None:
    """Refuse models that make other vectors than those that are there."""
    encoder = tools.embedder.encoder
    _check_fingerprint(collection, "encoder", collection.encoder, collection.fingerprint, encoder)
    if tools.weigher:
        mark = collection.sparse_fingerprint
        _check_fingerprint(collection, "sparse", collection.sparse, mark, tools.weigher.encoder)


def _check_fingerprint(
    collection: Collection, kind: Kind, name: str, mark: str, encoder: BiEncoder | SparseEncoder
) -> None:
    found = fingerprint(encoder, collection.recipe)
    if found != mark:
        raise EncoderMismatch(
            f"Collection '{collection.name}' holds vectors of the {title(kind)} '{name}' (fingerprint "
            f"{mark[:12]}), but '{encoder.name}' makes vectors of another kind (fingerprint {found[:12]}). Vectors of "
            f"two models can't be compared. Start with WINNOW_{kind.upper()}={name} and the same files and prompts, or "
            f"create another collection with the new {title(kind)} and ingest the documents there, or drop this one."
        )
