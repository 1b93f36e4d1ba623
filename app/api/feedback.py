"""What people made of answers: taken in, counted, read out as a dataset and as training pairs, and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from app.api import checks
from app.api.contract import OF_COLLECTIONS, refusals
from app.api.deps import EngineDep, StrictRoute, aside
from app.api.problems import faults_of
from app.api.schemas import SOME_TEXT, Body
from app.engine import Engine
from app.errors import Fault, Invalid, Malformed
from app.service.collections import DEFAULT
from app.service.feedback import Opinion
from app.service.lessons import Choice
from app.service.shelf import Shelf
from app.settings import Settings

router = APIRouter(prefix="/feedback", tags=["feedback"], route_class=StrictRoute)

MOST_AT_ONCE = 1000
REQUEST_ID = r"^[A-Za-z0-9._-]{1,64}$"
NDJSON, TSV = "application/x-ndjson", "text/tab-separated-values"

Part = Literal["corpus", "queries", "qrels", "pairs", "passages"]
InCollection = Annotated[str, Query(description="Whose feedback.")]


class FeedbackBody(Body):
    """What one person made of one document, or chunk, as the answer to a query."""

    query: str = Field(
        json_schema_extra=SOME_TEXT, examples=["how long can a filter be used"], description="What was asked."
    )
    document: str | None = Field(None, description="A hit's `document_id`.")
    chunk: str | None = Field(None, pattern=r"^[0-9]{1,18}$", description="A hit's `id`, alone or beside it.")
    collection: str = DEFAULT
    relevant: bool | None = Field(None, description="Does it answer the query? Likewise `grade` 1 or 0.")
    grade: int | None = Field(None, ge=0, le=3, description="How well it does, from 0 (not at all) to 3.")
    clicked: Literal[True] | None = Field(None, description="It was opened, which says less.")
    request_id: str | None = Field(
        None, pattern=REQUEST_ID, description="`x-request-id` of the search: tells one person's opinion from another's."
    )

    @model_validator(mode="after")
    def _says_one_thing_of_something(self) -> FeedbackBody:
        if sum(each is not None for each in (self.relevant, self.grade, self.clicked)) != 1:
            raise PydanticCustomError("label", "must have one of relevant, grade and clicked")
        if self.document is None and self.chunk is None:
            raise PydanticCustomError("target", "must have document or chunk")
        return self

    def opinion(self, place: str, shelf: Shelf) -> Opinion:
        return Opinion(
            place=place,
            collection=shelf.collection,
            query=self.query.strip(),
            document=self.document,
            chunk=int(self.chunk) if self.chunk is not None else None,
            kind="clicked" if self.clicked else "judged",
            grade=self.grade if self.grade is not None else int(self.relevant is not False),
            request=self.request_id or "",
        )


class KeptReply(BaseModel):
    collection: str
    document: str
    status: Literal["created", "updated", "unchanged"]


class FeedbackReply(BaseModel):
    feedback: list[KeptReply] = Field(description="In the order in which it was sent.")


class TotalsReply(BaseModel):
    collection: str
    judged: int
    clicked: int
    queries: int


class ForgottenReply(BaseModel):
    removed: int


ONE = FeedbackBody.model_json_schema(ref_template="#/components/schemas/{model}")
MANY = {"type": "array", "items": ONE, "minItems": 1, "maxItems": MOST_AT_ONCE}


@router.post(
    "",
    response_model=FeedbackReply,
    responses=refusals(*OF_COLLECTIONS),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [ONE, MANY]}}}}
    },
    summary="Say what became of an answer, or of several: relevant or not, graded, clicked",
)
async def give(request: Request, engine: EngineDep) -> FeedbackReply:
    try:
        given = await request.json()
    except orjson.JSONDecodeError as error:
        raise Malformed(f"The body is not valid JSON: {error}") from error
    bodies = await aside(request, lambda: _read(given, engine.settings))
    opinions = [
        each.opinion(_place(given, i), engine.collections.taking(each.collection)) for i, each in enumerate(bodies)
    ]
    kept = await engine.feedback.add(opinions)
    return FeedbackReply(
        feedback=[
            KeptReply(collection=each.collection, document=one.document, status=one.outcome)
            for each, one in zip(bodies, kept, strict=True)
        ]
    )


@router.get("", response_model=TotalsReply, responses=refusals(*OF_COLLECTIONS), summary="How much feedback there is")
async def totals(engine: EngineDep, collection: InCollection = DEFAULT) -> TotalsReply:
    found = await engine.feedback.totals(engine.collections.shelf(collection))
    return TotalsReply(collection=collection, **asdict(found))


@router.get(
    "/{part}",
    response_class=Response,
    responses={
        200: {"content": {kind: {"schema": {"type": "string"}} for kind in (NDJSON, TSV)}},
        **refusals(*OF_COLLECTIONS),
    },
    summary="Read feedback out: a BEIR dataset's corpus, queries or qrels; training pairs, and passages to mine from",
)
async def export(
    part: Part,
    engine: EngineDep,
    collection: InCollection = DEFAULT,
    clicks: Annotated[
        int, Query(ge=0, le=1_000_000, description="So many clicks count as relevant where nobody judged; 0: none do.")
    ] = 0,
    current: Annotated[bool, Query(description="Leave out feedback on earlier texts of documents.")] = False,
) -> Response:
    find = engine.collections.shelf if part in ("corpus", "passages") else engine.collections.taking
    lines = _lines(engine, find(collection), part, Choice(clicks, current))
    return StreamingResponse(lines, media_type=TSV if part == "qrels" else NDJSON)


@router.delete("", response_model=ForgottenReply, responses=refusals(*OF_COLLECTIONS), summary="Remove feedback")
async def forget(
    engine: EngineDep, collection: Annotated[str, Query(description="Whose feedback, all of it.")]
) -> ForgottenReply:
    return ForgottenReply(removed=await engine.feedback.forget(engine.collections.shelf(collection)))


def _lines(engine: Engine, shelf: Shelf, part: Part, choice: Choice) -> AsyncIterator[bytes]:
    if part in ("corpus", "passages"):
        return engine.lessons.corpus(shelf) if part == "corpus" else engine.lessons.passages(shelf)
    reads = {"queries": engine.lessons.queries, "qrels": engine.lessons.qrels, "pairs": engine.lessons.pairs}
    return reads[part](shelf, choice)


def _read(given: Any, settings: Settings) -> list[FeedbackBody]:
    """One or several; every fault has its place."""
    several = given if isinstance(given, list) else [given]
    if not 0 < len(several) <= MOST_AT_ONCE:
        detail = f"holds {len(several)}; send 1 to {MOST_AT_ONCE} at once"
        raise Invalid("The feedback can't be taken as it is.", [Fault("", detail)])
    read = [_one(each, _place(given, i), settings) for i, each in enumerate(several)]
    faults = [fault for each in read if isinstance(each, list) for fault in each]
    if faults:
        raise Invalid(f"Nothing was kept: {len(faults)} part(s) of the feedback are wrong.", faults)
    return [each for each in read if isinstance(each, FeedbackBody)]


def _one(given: Any, place: str, settings: Settings) -> FeedbackBody | list[Fault]:
    try:
        body = FeedbackBody.model_validate(given)
    except ValidationError as error:
        return faults_of(error.errors(include_url=False, include_input=False), place)
    return list(checks.feedback_faults(body.query, body.document, place, settings)) or body


def _place(given: Any, i: int) -> str:
    return f"/{i}" if isinstance(given, list) else ""
