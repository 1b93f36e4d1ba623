"""The HTTP application: `create_app(settings)` is all there is to know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.api import calibration, collections, compat_embed, compat_rerank, files, health, ingest, problems, search
from app.api.requests import Requests
from app.engine import VERSION, open_engine
from app.settings import Settings
from app.telemetry import Metrics

DESCRIPTION = (
    "Two-stage retrieval: an HNSW index proposes, a batched cross-encoder decides, every stage shows its latency."
)


def create_app(settings: Settings) -> FastAPI:
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_engine(settings, metrics) as engine:
            app.state.engine = engine
            yield

    app = FastAPI(title="Winnow", version=VERSION, description=DESCRIPTION, lifespan=lifespan)
    problems.install(app, metrics)
    app.add_middleware(Requests, metrics=metrics, most=settings.max_requests)
    for each in (search, ingest, files, collections, calibration, compat_rerank, compat_embed, health):
        app.include_router(each.router)
    return app
