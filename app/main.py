"""The HTTP application: `create_app(settings)` is all there is to know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.api import (
    backup,
    calibration,
    check,
    collections,
    compat_embed,
    compat_rerank,
    feedback,
    files,
    health,
    ingest,
    problems,
    quality,
    reference,
    search,
)
from app.api.contract import Described
from app.api.requests import Requests
from app.engine import VERSION, open_engine
from app.errors import StartupError
from app.settings import Settings
from app.telemetry import Metrics
from app.trail import Tracer

ROUTES = (
    search,
    ingest,
    files,
    collections,
    calibration,
    feedback,
    quality,
    compat_rerank,
    compat_embed,
    backup,
    check,
    health,
    reference,
)

DESCRIPTION = (
    "Two-stage retrieval: vectors (HNSW) and words (BM25) propose candidates, their tokens and a batched cross-encoder "
    "put them in order, and every stage shows its latency."
)


def create_app(settings: Settings, *, private: bool = False) -> FastAPI:
    """The service; a private one is asked by its own process alone, and needs no keys."""
    metrics, tracer = Metrics(), _tracer(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_engine(settings, metrics, private=private) as engine:
            app.state.engine = engine
            yield
        if tracer:
            await asyncio.to_thread(tracer.close)

    app = Described(
        title="Winnow", version=VERSION, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    problems.install(app, metrics)
    app.add_middleware(Requests, metrics=metrics, most=settings.max_requests, slow=settings.slow_seconds, tracer=tracer)
    for each in ROUTES:
        app.include_router(each.router)
    return app


def _tracer(settings: Settings) -> Tracer | None:
    """Where no traces are asked for, nothing of OpenTelemetry is imported."""
    if not settings.traces:
        return None
    try:
        from app.traces import OtlpTracer
    except ModuleNotFoundError as error:
        raise StartupError(f"WINNOW_TRACES needs {error.name}: pip install -c constraints.txt -e '.[otel]'") from error
    return OtlpTracer(VERSION)
