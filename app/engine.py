"""The composition root: opens what the service is made of and closes it in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from tempfile import gettempdir

from app.background import Background, Work
from app.errors import Invalid, StartupError
from app.quality.observe.observer import Observer
from app.service.access import Access
from app.service.audit import Audit
from app.service.backup import Backups
from app.service.check import Checks
from app.service.collections import Collections
from app.service.feedback import Feedback
from app.service.files import Files
from app.service.ingest import Ingest
from app.service.lessons import Lessons
from app.service.models import Models
from app.service.readiness import Readiness
from app.service.relevance import Relevance
from app.service.room import look_for_room
from app.service.scoring import Scoring
from app.service.search import Search
from app.service.second_look import Hindsight
from app.service.sieve import Sieve
from app.service.standby import Standbys
from app.settings import Settings
from app.stages.embed import Embedder
from app.stages.rerank import Ranker
from app.stages.weigh import Weigher
from app.stores.data_dir import DATABASE, INDEXES, QUALITY, claim, require_truth
from app.stores.disk import room, size
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.watchdog import Watchdog
from app.witness import Traffic

VERSION = version("winnow")

THREADS = {"search": 4, "ingest": 2, "index": 2, "scoring": 2, "observe": 1}
"""For work that would hold up the event loop. Each use has its own, so that splitting a long document, or ranking the
texts that a caller brings along, never delays a search, and the models need not wait until all is split that comes
in."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything that is open."""

    settings: Settings
    metrics: Metrics
    access: Access
    audit: Audit
    collections: Collections
    standbys: Standbys
    search: Search
    ingest: Ingest
    files: Files
    relevance: Relevance
    scoring: Scoring
    feedback: Feedback
    lessons: Lessons
    backups: Backups
    checks: Checks
    readiness: Readiness
    watchdog: Watchdog
    observer: Observer


@asynccontextmanager
async def open_engine(settings: Settings, metrics: Metrics, *, private: bool = False) -> AsyncIterator[Engine]:
    """Open the engine. Its collections go on opening in the background; readiness says when they have."""
    async with AsyncExitStack() as stack:
        stack.callback(claim(settings.data_dir).close)
        require_truth(settings.data_dir)
        _find_temporary_folder()
        access = Access(settings, private=private)
        _begin(stack, Background("keys", metrics), access.run)
        database = _open_database(stack, settings, metrics)
        # Behind the database, since they read it: so they end before it is closed.
        threads = {name: _threads(stack, amount, name) for name, amount in THREADS.items()}
        models = Models(settings, metrics, threads["ingest"])
        stack.push_async_callback(asyncio.to_thread, models.close)
        watchdog = Watchdog(lambda: models.devices, metrics, settings.stall_seconds, settings.hang_seconds)
        stack.callback(watchdog.close)
        embedder, ranker, weigher = await _open_models(models, settings)
        _tell(metrics, embedder, ranker)
        collections = Collections(database, models, settings.data_dir / INDEXES, settings, metrics, threads["index"])
        stack.push_async_callback(collections.close)
        readiness = Readiness(
            collections, database.room, embedder, ranker, weigher, watchdog, metrics, threads["search"]
        )
        _begin(stack, Background("readiness", metrics), readiness.run)
        stack.callback(collections.stop)
        backups, checks = Backups(database, collections, settings.data_dir, metrics), Checks(database, collections)
        stack.push_async_callback(backups.close)
        stack.push_async_callback(checks.close)
        traffic = Traffic()
        sieve = Sieve(database, settings.filter_cache_bytes)
        looking = Hindsight(database, sieve, collections, metrics, threads["observe"])
        observer = Observer(looking, traffic, settings, metrics, settings.data_dir / QUALITY)
        _begin(stack, Background("observer", metrics), observer.run)
        ingest = Ingest(database, collections, metrics, threads["ingest"])
        feedback = Feedback(database, metrics, settings.max_feedback)
        yield Engine(
            settings=settings,
            metrics=metrics,
            access=access,
            audit=Audit(settings.audit),
            collections=collections,
            standbys=Standbys(database, collections, feedback, settings),
            search=Search(database, sieve, metrics, threads["search"], traffic, observer if observer.watches else None),
            ingest=ingest,
            files=Files(database, ingest, settings, metrics, threads["ingest"]),
            relevance=Relevance(database),
            scoring=Scoring(embedder, ranker, metrics, traffic, settings.queue_tokens, threads["scoring"]),
            feedback=feedback,
            lessons=Lessons(database),
            backups=backups,
            checks=checks,
            readiness=readiness,
            watchdog=watchdog,
            observer=observer,
        )


def _find_temporary_folder() -> None:
    """Found once, and by writing to it: a disk that is full later would be taken for a missing folder."""
    with suppress(FileNotFoundError):
        gettempdir()


def _open_database(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> Database:
    """The truth, with an eye on the room that it has."""
    database = Database(settings.data_dir / DATABASE)
    stack.callback(database.close)
    metrics.disk_full.set_function(lambda: float(database.room.lacking))
    metrics.disk_free_bytes.set_function(lambda: room(settings.data_dir))
    for file, name in (("data", DATABASE), ("log", f"{DATABASE}-wal")):
        metrics.database_bytes.labels(file).set_function(partial(size, settings.data_dir / name))
    _begin(stack, Background("room", metrics), lambda: look_for_room(database))
    return database


async def _open_models(models: Models, settings: Settings) -> tuple[Embedder, Ranker, Weigher | None]:
    try:
        weigher = await models.weigher(settings.sparse) if settings.sparse else None
        return await models.embedder(settings.encoder), await models.ranker(settings.reranker), weigher
    except Invalid as error:
        raise StartupError(str(error)) from error


def _begin(stack: AsyncExitStack, task: Background, work: Work) -> None:
    stack.push_async_callback(task.close)
    task.start(work)


def _threads(stack: AsyncExitStack, amount: int, name: str) -> Executor:
    pool = ThreadPoolExecutor(amount, name)
    stack.callback(pool.shutdown)
    return pool


def _tell(metrics: Metrics, embedder: Embedder, ranker: Ranker) -> None:
    encoder, reranker = embedder.encoder, ranker.reranker
    runtimes = ", ".join(dict.fromkeys([encoder.runtime, reranker.runtime]))
    precisions = ", ".join(dict.fromkeys([encoder.precision, reranker.precision]))
    metrics.info.labels(VERSION, encoder.name, reranker.name, encoder.device, runtimes, precisions).set(1)
