"""Alive, ready, and measured."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from app.api.deps import EngineDep

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    ready: bool
    starting: bool
    reasons: list[str]


@router.get("/healthz", response_model=Alive, summary="Is the process alive?")
async def healthz() -> Alive:
    return Alive()


@router.get(
    "/readyz", response_model=Ready, responses={503: {"model": Ready}}, summary="Can it be trusted with searches?"
)
async def readyz(engine: EngineDep, response: Response) -> Ready:
    reasons = engine.readiness.reasons()
    response.status_code = 503 if reasons else 200
    return Ready(ready=not reasons, starting=engine.readiness.starting, reasons=reasons)


@router.get("/metrics", response_class=Response, summary="Metrics for Prometheus")
async def metrics(engine: EngineDep) -> Response:
    return Response(generate_latest(engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)
