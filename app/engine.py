"""The composition root: opens what the service is made of and closes it in reverse."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from app.errors import Invalid, StartupError
from app.service.collections import Collections
from app.service.files import Files
from app.service.ingest import Ingest
from app.service.models import Models
from app.service.readiness import Readiness
from app.service.relevance import Relevance
from app.service.scoring import Scoring
from app.service.search import Search
from app.settings import Settings
from app.stages.embed import Embedder
from app.stages.rerank import Ranker
from app.stages.weigh import Weigher
from app.stores.sqlite import Database
from app.telemetry import Metrics

VERSION = version("winnow")

SEARCH_THREADS = 4
INGEST_THREADS = 2
"""Apart from the searches' threads, so that splitting a long document never delays one."""

SCORING_THREADS = 2
"""Likewise, for texts that callers bring along to be ranked or embedded."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything that is open."""

    settings: Settings
    metrics: Metrics
    collections: Collections
    search: Search
    ingest: Ingest
    files: Files
    relevance: Relevance
    scoring: Scoring
    readiness: Readiness


@asynccontextmanager
async def open_engine(settings: Settings, metrics: Metrics) -> AsyncIterator[Engine]:
    """Open the engine. Its collections go on opening in the background; readiness says when they have."""
    async with AsyncExitStack() as stack:
        stack.callback(_lock(settings.data_dir).close)
        searching, ingesting = _threads(stack, SEARCH_THREADS, "search"), _threads(stack, INGEST_THREADS, "ingest")
        database = Database(settings.data_dir / "winnow.db")
        stack.callback(database.close)
        models = Models(settings, metrics, ingesting)
        stack.push_async_callback(asyncio.to_thread, models.close)
        embedder, ranker, weigher = await _open_models(models, settings)
        _tell(metrics, embedder, ranker)
        collections = Collections(database, models, settings.data_dir / "indexes", settings, metrics, ingesting)
        stack.push_async_callback(collections.close)
        readiness = Readiness(collections, embedder, ranker, weigher, metrics, searching)
        stack.push_async_callback(_cancel, asyncio.create_task(readiness.run(), name="readiness"))
        stack.callback(collections.stop)
        search, ingest = Search(database, metrics, searching), Ingest(database, metrics, ingesting)
        files = Files(database, ingest, settings, metrics, ingesting)
        relevance = Relevance(database)
        scoring = Scoring(embedder, ranker, metrics, settings.queue_tokens, _threads(stack, SCORING_THREADS, "scoring"))
        yield Engine(settings, metrics, collections, search, ingest, files, relevance, scoring, readiness)


async def _open_models(models: Models, settings: Settings) -> tuple[Embedder, Ranker, Weigher | None]:
    try:
        weigher = await models.weigher(settings.sparse) if settings.sparse else None
        return await models.embedder(settings.encoder), await models.ranker(settings.reranker), weigher
    except Invalid as error:
        raise StartupError(str(error)) from error


def _lock(data_dir: Path) -> IO[bytes]:
    """Hold the data directory: two processes that write one index would ruin it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    held = (data_dir / "lock").open("wb")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartupError(
            f"Another Winnow works in {data_dir}. Talk to it with --url, or choose another WINNOW_DATA_DIR."
        ) from None
    return held


def _threads(stack: AsyncExitStack, amount: int, name: str) -> Executor:
    pool = ThreadPoolExecutor(amount, name)
    stack.callback(pool.shutdown)
    return pool


def _tell(metrics: Metrics, embedder: Embedder, ranker: Ranker) -> None:
    encoder, reranker = embedder.encoder, ranker.reranker
    runtimes = ", ".join(dict.fromkeys([encoder.runtime, reranker.runtime]))
    metrics.info.labels(VERSION, encoder.name, reranker.name, encoder.device, runtimes).set(1)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
