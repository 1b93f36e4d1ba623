"""POST /v1/embeddings as OpenAI has it, POST /embed as text-embeddings-inference, and GET /v1/models."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from app.api.compat_checks import check_length, check_model, policy, refusal, texts_to_embed
from app.api.compat_rerank import TRUNCATED
from app.api.compat_schemas import (
    ROLES,
    EmbedBody,
    EmbeddingsBody,
    EmbeddingsReply,
    ServedModelsReply,
    ServedReply,
)
from app.api.contract import refusals
from app.api.deps import EngineDep, StrictRoute, aside, in_time
from app.api.problems import ELSEWHERE
from app.engine import Engine
from app.errors import NotFound
from app.service.scoring import Embedding, TooLong
from app.stores.vectors import shortened
from app.types import Truncation, Vector
from models.types import Role, Vectors

router = APIRouter(tags=[ELSEWHERE], route_class=StrictRoute)


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsReply,
    responses=refusals(NotFound),
    summary="Embed texts: OpenAI",
)
async def embeddings(body: EmbeddingsBody, request: Request, engine: EngineDep) -> Response:
    check_model(body.model, engine.scoring.encoder.name)
    check_length(body.dimensions, engine.scoring.encoder)
    texts = await aside(request, lambda: texts_to_embed(body.input, "input", engine.settings))
    try:
        made = await _embed(request, engine, texts, body.role, body.on_truncation)
    except TooLong as error:
        raise refusal(error, "input", "shorten it, or let on_truncation be report") from error
    vectors, name = shortened(made.vectors, body.dimensions), engine.scoring.encoder.name
    return _reply(
        await asyncio.to_thread(_listed, vectors, made, name, in_base64=body.encoding_format == "base64"), made
    )


@router.post("/embed", response_model=list[list[float]], summary="Embed texts: TEI")
async def embed(body: EmbedBody, request: Request, engine: EngineDep) -> Response:
    check_length(body.dimensions, engine.scoring.encoder)
    texts = await aside(request, lambda: texts_to_embed(body.inputs, "inputs", engine.settings))
    asked, role = policy(body.truncate, engine.settings), ROLES[body.prompt_name or "document"]
    try:
        made = await _embed(request, engine, texts, role, asked)
    except TooLong as error:
        raise refusal(error, "inputs", "shorten it, or send truncate: true") from error
    return _reply(await asyncio.to_thread(_plain, shortened(made.vectors, body.dimensions)), made)


@router.get("/v1/models", response_model=ServedModelsReply, summary="The models that the other routes ask")
async def models(engine: EngineDep) -> ServedModelsReply:
    serves: dict[str, list[Any]] = {}
    serves.setdefault(engine.scoring.encoder.name, []).append("embeddings")
    serves.setdefault(engine.scoring.reranker.name, []).append("rerank")
    since = engine.scoring.since
    return ServedModelsReply(data=[ServedReply(id=name, created=since, serves=what) for name, what in serves.items()])


async def _embed(request: Request, engine: Engine, texts: Sequence[str], role: Role, asked: Truncation) -> Embedding:
    """Long requests give way to searches, and so may take as long as an ingest."""
    return await in_time(request, engine.settings.ingest_timeout, engine.scoring.embed(texts, role, asked))


def _listed(vectors: Vectors, made: Embedding, model: str, *, in_base64: bool) -> bytes:
    """One by one, so that other threads get a turn."""
    usage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
    data = [orjson.Fragment(_item(index, vector, in_base64=in_base64)) for index, vector in enumerate(vectors)]
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def _item(index: int, vector: Vector, *, in_base64: bool) -> bytes:
    shown = b64encode(vector.astype("<f4").tobytes()).decode() if in_base64 else vector
    item = {"object": "embedding", "index": index, "embedding": shown}
    return orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(vectors: Vectors) -> bytes:
    return orjson.dumps([orjson.Fragment(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for row in vectors])


def _reply(content: bytes, made: Embedding) -> Response:
    return Response(content, headers={TRUNCATED: str(len(made.cut))}, media_type="application/json")
