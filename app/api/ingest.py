"""POST /ingest, jobs, and documents one by one."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from app.api import checks
from app.api.contract import OF_COLLECTIONS, refusals
from app.api.deps import EngineDep, StrictRoute, aside, in_time
from app.api.ndjson import ingest_lines
from app.api.problems import from_validation
from app.api.schemas import (
    ChangeBody,
    ChoiceBody,
    ChunkReply,
    DeleteReply,
    DocumentReply,
    Envelope,
    IngestReply,
    JobReply,
    ListBody,
    ListReply,
    UpdateBody,
    UpdateReply,
    told,
)
from app.engine import Engine
from app.errors import Fault, Invalid, Malformed, NotFound, TimedOut, UnsupportedType
from app.service.collections import DEFAULT
from app.service.ingest import Ticket
from app.service.shelf import Shelf
from app.settings import Settings
from app.stages.filter import parse
from app.stores.documents import Piece, Put
from app.stores.filters import Filter
from app.stores.listing import Listed
from app.types import Document
from models.types import ModelError

router = APIRouter(tags=["documents"], route_class=StrictRoute)

JSON, NDJSON = "application/json", "application/x-ndjson"
SCHEMA = {"$ref": "#/components/schemas/IngestBody"}
LINES = {"type": "string", "description": "A document a line, each as in the JSON form."}
BODIES = {"requestBody": {"required": True, "content": {JSON: {"schema": SCHEMA}, NDJSON: {"schema": LINES}}}}
RESULTS = {"type": "string", "description": "What became of each line, and in the last one of all."}
IN_LINES = {"content": {NDJSON: {"schema": RESULTS}}}

InCollection = Annotated[str, Query(description="The collection that holds the document.")]


@router.post(
    "/ingest",
    response_model=IngestReply,
    responses={
        200: IN_LINES,
        202: IN_LINES | {"model": IngestReply, "description": "Acknowledged; poll the job."},
        **refusals(*OF_COLLECTIONS, UnsupportedType),
    },
    openapi_extra=BODIES,
    summary="Take documents in: JSON, all or nothing, or NDJSON line by line",
)
async def ingest(
    request: Request,
    engine: EngineDep,
    collection: Annotated[str, Query(description="For NDJSON; JSON names it in the body.")] = DEFAULT,
    wait: Annotated[bool, Query(description="For NDJSON; JSON says so in the body.")] = True,
) -> Response:
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind == NDJSON:
        return await ingest_lines(request, engine, collection, wait=wait)
    if kind != JSON:
        raise UnsupportedType(f"'{kind}' can't be ingested: send {JSON} or {NDJSON}.")
    if said := list(request.query_params):
        faults = [Fault(f"/query/{name}", f"is for {NDJSON}: put {name} into the body") for name in said]
        raise Invalid("JSON says in its body where it goes.", faults)
    body, batch = await _read(request, engine)
    shelf = engine.collections.taking(body.collection)
    ticket, puts = await engine.ingest.take(shelf, batch)
    searchable = body.wait and await _settled(request, engine, shelf, ticket, puts)
    return Response(
        orjson.dumps(_reply(body.collection, ticket, puts, searchable=searchable)),
        200 if searchable else 202,
        media_type=JSON,
    )


@router.get("/jobs/{job}", response_model=JobReply, responses=refusals(NotFound), summary="See how far an ingest is")
async def job(job: str, engine: EngineDep) -> JobReply:
    return JobReply(**asdict(await engine.ingest.job(job)))


@router.get(
    "/documents/{document:path}",
    response_model=DocumentReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="Get a document",
)
async def document(document: str, engine: EngineDep, collection: InCollection = DEFAULT) -> DocumentReply:
    stored = await engine.ingest.document(engine.collections.shelf(collection), document)
    return DocumentReply(
        **asdict(stored.document),
        collection=collection,
        state=stored.state,
        error=stored.error,
        chunks=[_chunk(each) for each in stored.chunks],
        created_at=stored.created_at,
    )


@router.delete(
    "/documents/{document:path}",
    response_model=DeleteReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="Delete a document",
)
async def delete_document(document: str, engine: EngineDep, collection: InCollection = DEFAULT) -> DeleteReply:
    shelf = engine.collections.taking(collection)
    await engine.ingest.document(shelf, document)
    return DeleteReply(deleted=await engine.ingest.delete(shelf, [document]))


@router.patch(
    "/documents/{document:path}",
    response_model=UpdateReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="Change a document's metadata",
)
async def update_document(
    document: str, body: ChangeBody, request: Request, engine: EngineDep, collection: InCollection = DEFAULT
) -> UpdateReply:
    change = await aside(request, lambda: checks.change(body.metadata, engine.settings))
    shelf = engine.collections.taking(collection)
    await engine.ingest.document(shelf, document)
    return _updated(await engine.ingest.amend(shelf, [document], change))


@router.post(
    "/documents/update",
    response_model=UpdateReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="Change the metadata of documents by ids or by filter",
)
async def update_documents(body: UpdateBody, request: Request, engine: EngineDep) -> UpdateReply:
    chosen = await aside(request, lambda: checks.chosen(body, engine.settings))
    change = await aside(request, lambda: checks.change(body.metadata, engine.settings))
    return _updated(await engine.ingest.amend(engine.collections.taking(body.collection), chosen, change))


@router.post(
    "/documents/delete",
    response_model=DeleteReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="Delete documents by ids or by filter",
)
async def delete_documents(body: ChoiceBody, request: Request, engine: EngineDep) -> DeleteReply:
    chosen = await aside(request, lambda: checks.chosen(body, engine.settings))
    return DeleteReply(deleted=await engine.ingest.delete(engine.collections.taking(body.collection), chosen))


@router.post(
    "/documents/list",
    response_model=ListReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="List documents, a page at a time, all of them or those that a filter allows",
)
async def list_documents(body: ListBody, request: Request, engine: EngineDep) -> Response:
    shelf = engine.collections.shelf(body.collection)
    wanted = await aside(request, lambda: _wanted(body, engine.settings))
    found, more = await engine.ingest.page(shelf, wanted, int(body.after or 0), body.limit, texts=body.text)
    page = {"documents": [_listed(each) for each in found], "next": str(found[-1].version) if more else None}
    return Response(orjson.dumps(page), media_type=JSON)


def _wanted(body: ListBody, settings: Settings) -> Filter | None:
    return parse(body.filter, settings.max_filter_conditions) if body.filter else None


def _updated(amended: dict[str, bool]) -> UpdateReply:
    return UpdateReply(
        updated=[each for each, changed in amended.items() if changed],
        unchanged=[each for each, changed in amended.items() if not changed],
    )


def _listed(found: Listed) -> dict[str, Any]:
    """Metadata is JSON already, and there may be much of it."""
    shown = {name: getattr(found, name) for name in ("id", "title", "state", "error", "chunks", "created_at", "text")}
    return shown | {"metadata": orjson.Fragment(found.metadata)}


def _chunk(piece: Piece) -> ChunkReply:
    return ChunkReply(id=str(piece.number), start=piece.start, end=piece.end, tokens=piece.tokens, **told(piece.place))


async def _read(request: Request, engine: Engine) -> tuple[Envelope, list[Document]]:
    """The body, read in a thread: there may be thousands of documents in it."""
    raw = await request.body()

    def read() -> tuple[Envelope, list[Document]]:
        envelope = Envelope.model_validate(orjson.loads(raw))
        return envelope, checks.documents(envelope.documents, engine.settings)

    try:
        return await asyncio.to_thread(read)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"The body is not valid JSON: {error}") from error
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from error


async def _settled(request: Request, engine: Engine, shelf: Shelf, ticket: Ticket, puts: list[Put]) -> bool:
    """Whether the documents can be found before patience ends."""
    through = max(put.version for put in puts)
    work = engine.ingest.settled(shelf, ticket, through)
    try:
        failed = await in_time(request, engine.settings.ingest_timeout, work)
    except TimedOut:
        return False
    if failed:
        raise ModelError(f"{len(failed)} of the documents can't be embedded, the rest can be found: {failed}")
    return True


def _reply(collection: str, ticket: Ticket, puts: list[Put], *, searchable: bool) -> dict[str, Any]:
    return {
        "job": ticket.id,
        "collection": collection,
        "searchable": searchable,
        "documents": [{"id": put.id, "status": put.outcome, "chunks": put.chunks} for put in puts],
    }
