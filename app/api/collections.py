"""Collections: create, list, describe, drop."""

from __future__ import annotations

from dataclasses import asdict, replace

from fastapi import APIRouter

from app.api.contract import refusals
from app.api.deps import EngineDep, StrictRoute
from app.api.schemas import (
    CalibratedReply,
    CollectionBody,
    CollectionReply,
    CollectionsReply,
    RecipeReply,
    StandbyBody,
    StandbyReply,
    SwitchBody,
)
from app.engine import Engine
from app.errors import Conflict, NotFound
from app.service.collections import Description
from app.types import STANDBY

router = APIRouter(prefix="/collections", tags=["collections"], route_class=StrictRoute)


@router.post(
    "", response_model=CollectionReply, status_code=201, responses=refusals(Conflict), summary="Create a collection"
)
async def create(body: CollectionBody, engine: EngineDep) -> CollectionReply:
    recipe = replace(engine.collections.default_recipe(), **body.recipe.model_dump(exclude_none=True))
    await engine.collections.create(
        body.name, body.encoder, body.reranker, recipe, body.language, body.sparse, body.late
    )
    return await _reply(engine, await engine.collections.describe(body.name))


@router.get("", response_model=CollectionsReply, summary="List all collections")
async def every(engine: EngineDep) -> CollectionsReply:
    return CollectionsReply(collections=[await _reply(engine, each) for each in await engine.collections.every()])


@router.get("/{name}", response_model=CollectionReply, responses=refusals(NotFound), summary="Describe a collection")
async def describe(name: str, engine: EngineDep) -> CollectionReply:
    return await _reply(engine, await engine.collections.describe(name))


@router.delete("/{name}", status_code=204, responses=refusals(NotFound), summary="Drop a collection and all it holds")
async def drop(name: str, engine: EngineDep) -> None:
    await engine.collections.drop(name)


@router.post(
    "/{name}/standby",
    response_model=CollectionReply,
    status_code=201,
    responses=refusals(Conflict, NotFound),
    summary="Make a collection's documents ready for other models, in the background",
)
async def begin_standby(name: str, body: StandbyBody, engine: EngineDep) -> CollectionReply:
    recipe = body.recipe.model_dump(exclude_none=True)
    chosen = body.encoder, body.reranker, recipe, body.language, body.sparse, body.late
    made = await engine.standbys.begin(name, *chosen)
    return await _reply(engine, await engine.collections.describe(made.name))


@router.delete("/{name}/standby", status_code=204, responses=refusals(Conflict, NotFound), summary="Drop the standby")
async def end_standby(name: str, engine: EngineDep) -> None:
    await engine.standbys.end(name)


@router.post(
    "/{name}/switch",
    response_model=CollectionReply,
    responses=refusals(Conflict, NotFound),
    summary="Let the standby take the collection's place, which becomes the standby",
)
async def switch(name: str, body: SwitchBody, engine: EngineDep) -> CollectionReply:
    await engine.standbys.switch(name, force=body.force)
    return await _reply(engine, await engine.collections.describe(name))


async def _reply(engine: Engine, found: Description) -> CollectionReply:
    collection = found.collection
    notes = await engine.relevance.notes(collection.number, found.shelf)
    standby = await engine.standbys.progress(collection.number)
    return CollectionReply(
        name=collection.name,
        follows=collection.name.removesuffix(STANDBY) if collection.is_standby else None,
        standby=StandbyReply(name=f"{collection.name}{STANDBY}", **asdict(standby)) if standby else None,
        encoder=collection.encoder,
        reranker=collection.reranker,
        sparse=collection.sparse or None,
        late=bool(collection.late),
        recipe=RecipeReply(**asdict(collection.recipe)),
        language=collection.language,
        dimensions=collection.dimensions,
        fingerprint=collection.fingerprint,
        sparse_fingerprint=collection.sparse_fingerprint or None,
        created_at=collection.created_at,
        **asdict(found.contents),
        index_chunks=found.index_chunks,
        lexical_chunks=found.lexical_chunks,
        sparse_chunks=found.sparse_chunks,
        index_bytes=found.index_bytes,
        index_dimensions=engine.settings.graph_dimensions(collection.dimensions),
        index_ef=found.index_ef,
        sparse_bytes=found.sparse_bytes,
        sequence=found.sequence,
        trouble=found.trouble,
        calibrations=[CalibratedReply(**asdict(note)) for note in notes],
    )
