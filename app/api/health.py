"""Alive, ready, and measured."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field

from app.api.access import sees_all
from app.api.deps import EngineDep, StrictRoute

router = APIRouter(tags=["health"], route_class=StrictRoute)


UNTOLD = "ask with a key to be told why"

OPEN = {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    ready: bool
    starting: bool
    reasons: list[str]
    warnings: list[str] = Field(
        description="What is wrong and keeps no search from being answered: a full disk, a standby."
    )


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Alive, summary="Is the process alive?")
async def healthz() -> Alive:
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz", response_model=Ready, responses={503: {"model": Ready}}, summary="Can it be trusted with searches?"
)
async def readyz(request: Request, engine: EngineDep, response: Response) -> Ready:
    """What names collections is, where there are keys, for those who may see all."""
    readiness = engine.readiness
    reasons, standbys = readiness.reasons(), readiness.standbys()
    response.status_code = 503 if reasons else 200
    told, warned = (each if sees_all(engine.access, request) else [UNTOLD] * bool(each) for each in (reasons, standbys))
    warnings = [*readiness.warnings(), *warned]
    return Ready(ready=not reasons, starting=readiness.starting, reasons=told, warnings=warnings)


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=PlainTextResponse, responses={200: OPEN}, summary="Metrics for Prometheus")
async def metrics(engine: EngineDep, request: Request) -> Response:
    """As OpenMetrics, with exemplars, to whoever accepts that."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # Some twenty milliseconds, in which the event loop has others to serve.
    told = await asyncio.to_thread(encode, engine.metrics.registry)
    return Response(told, headers={"content-type": content_type})
