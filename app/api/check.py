"""POST /check begins to hold all indexes against the truth; GET /check tells how far that is, and what was found."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.contract import refusals
from app.api.deps import EngineDep, StrictRoute
from app.api.schemas import Body
from app.errors import Conflict, NotFound
from app.service.findings import Part, Report, State

router = APIRouter(prefix="/check", tags=["operations"], route_class=StrictRoute)


class CheckBody(Body):
    repair: bool = Field(False, description="Build damaged indexes anew from the truth, with searches going on.")


class FindingReply(BaseModel):
    collection: str | None
    part: Part
    problem: str
    chunks: list[str] = Field(description="Some of those that it is about.")
    repaired: bool


class ProgressReply(BaseModel):
    what: str
    done: int
    total: int = Field(description="Chunks in this part; 0 where none are counted.")


class CheckReply(BaseModel):
    state: State
    repairs: bool
    progress: ProgressReply
    collections: int
    chunks: int = Field(description="Compared so far, once for each index.")
    findings: list[FindingReply]
    error: str | None


@router.post("", response_model=CheckReply, status_code=202, responses=refusals(Conflict), summary="Begin a check")
async def begin(body: CheckBody, engine: EngineDep) -> CheckReply:
    return _reply(engine.checks.begin(repair=body.repair))


@router.get("", response_model=CheckReply, responses=refusals(NotFound), summary="How far the last check is")
async def show(engine: EngineDep) -> CheckReply:
    return _reply(engine.checks.report)


def _reply(report: Report) -> CheckReply:
    return CheckReply(
        state=report.state,
        repairs=report.repairs,
        progress=ProgressReply(what=report.what, done=report.done, total=report.total),
        collections=report.collections,
        chunks=report.chunks,
        findings=[
            FindingReply(**asdict(each) | {"chunks": [str(chunk) for chunk in each.chunks]}) for each in report.findings
        ],
        error=report.error,
    )
