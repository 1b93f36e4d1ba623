"""Collections: create, list, describe, drop."""

from __future__ import annotations

from dataclasses import asdict, replace

from fastapi import APIRouter

from app.api.contract import refusals
from app.api.deps import EngineDep, StrictRoute
from app.api.schemas import CalibratedReply, CollectionBody, CollectionReply, CollectionsReply, RecipeReply
from app.engine import Engine
from app.errors import Conflict, NotFound
from app.service.collections import Description

router = APIRouter(prefix="/collections", tags=["collections"], route_class=StrictRoute)


@router.post(
    "", response_model=CollectionReply, status_code=201, responses=refusals(Conflict), summary="Create a collection"
)
async def create(body: CollectionBody, engine: EngineDep) -> CollectionReply:
    recipe = replace(engine.collections.default_recipe(), **body.recipe.model_dump(exclude_none=True))
    await engine.collections.create(body.name, body.encoder, body.reranker, recipe, body.language, body.sparse)
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


async def _reply(engine: Engine, found: Description) -> CollectionReply:
    collection = found.collection
    notes = await engine.relevance.notes(collection.number, found.shelf)
    return CollectionReply(
        name=collection.name,
        encoder=collection.encoder,
        reranker=collection.reranker,
        sparse=collection.sparse or None,
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
