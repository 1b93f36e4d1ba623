"""Quality while serving: what is known of each collection's searches, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query

from app.api.contract import OF_COLLECTIONS, refusals
from app.api.deps import EngineDep, StrictRoute
from app.caller import caller
from app.errors import Conflict
from app.quality.observe.types import Report

router = APIRouter(prefix="/quality", tags=["quality"], route_class=StrictRoute, responses=refusals(*OF_COLLECTIONS))

Name = Annotated[str, Query(max_length=256)]


@dataclass(frozen=True, slots=True)
class QualityReply:
    watching: bool
    """False where WINNOW_OBSERVE_SHARE is 0."""
    collections: list[Report]


@router.get("", response_model=QualityReply, summary="How good are the answers?")
async def quality(engine: EngineDep, collection: Name | None = None) -> QualityReply:
    if collection is not None:
        engine.collections.shelf(collection)
    who = caller()
    reports = await engine.observer.reports(lambda name: name == collection if collection else who.sees(name))
    return QualityReply(engine.observer.watches, reports)


@router.post(
    "/reference",
    response_model=Report,
    responses=refusals(Conflict),
    summary="Take the searches of lately as what drift is measured by",
)
async def refer(engine: EngineDep, collection: Name = "default") -> Report:
    engine.collections.shelf(collection)
    return await engine.observer.refer(collection)
