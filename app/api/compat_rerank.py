"""POST /rerank as text-embeddings-inference, Cohere, Jina and infinity have it: by the reranker alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import orjson
from fastapi import APIRouter, Request, Response

from app.api.compat_checks import check_model, policy, refusal, texts_to_rank
from app.api.compat_schemas import DocumentsBody, EitherBody, RankReply, ResultsReply, TextsBody
from app.api.contract import refusals
from app.api.deps import EngineDep, StrictRoute, aside, in_time
from app.api.problems import ELSEWHERE
from app.engine import Engine
from app.errors import NotFound
from app.service.scoring import Ranking, TooLong, logits, probabilities
from app.types import Truncation

TRUNCATED = "Winnow-Truncated"
"""The header that says of how many texts only a part was read."""

router = APIRouter(tags=[ELSEWHERE], route_class=StrictRoute, responses=refusals(NotFound))


@router.post(
    "/rerank", response_model=ResultsReply | list[RankReply], summary="Rank texts: TEI, Cohere, Jina, infinity"
)
async def rerank(body: EitherBody, request: Request, engine: EngineDep) -> Response:
    if isinstance(body, DocumentsBody):
        return await rerank_documents(body, request, engine)
    texts = await aside(request, lambda: texts_to_rank(body.query, body.texts, "texts", engine.settings))
    asked = policy(body.truncate, engine.settings)
    try:
        ranking = await _rank(request, engine, body.query, texts, asked)
    except TooLong as error:
        raise refusal(error, "texts", "shorten it, or send truncate: true") from error
    return _reply(_ranks(body, texts, ranking, engine), ranking)


@router.post("/v1/rerank", response_model=ResultsReply, summary="Rank texts: Cohere, Jina")
@router.post("/v2/rerank", response_model=ResultsReply, summary="Rank texts: Cohere")
async def rerank_documents(body: DocumentsBody, request: Request, engine: EngineDep) -> Response:
    check_model(body.model, engine.scoring.reranker.name)
    texts = await aside(request, lambda: texts_to_rank(body.query, body.documents, "documents", engine.settings))
    try:
        ranking = await _rank(request, engine, body.query, texts, body.on_truncation, body.max_tokens_per_doc)
    except TooLong as error:
        raise refusal(error, "documents", "shorten it, or let on_truncation be report or window") from error
    return _reply(_results(body, texts, ranking, engine), ranking)


async def _rank(
    request: Request, engine: Engine, query: str, texts: Sequence[str], asked: Truncation, most: int | None = None
) -> Ranking:
    return await in_time(request, engine.settings.search_timeout, engine.scoring.rank(query, texts, asked, most))


def _scores(ranking: Ranking, engine: Engine, *, raw: bool | None) -> list[float]:
    """In the order of the texts."""
    scores: list[float] = (logits if raw else probabilities)(ranking.scores, engine.scoring.reranker.unit).tolist()
    return scores


def _ranks(body: TextsBody, texts: Sequence[str], ranking: Ranking, engine: Engine) -> list[dict[str, Any]]:
    scores = _scores(ranking, engine, raw=body.raw_scores)
    return [
        {"index": place, "score": scores[place]} | ({"text": texts[place]} if body.return_text else {})
        for place in ranking.order
    ]


def _results(body: DocumentsBody, texts: Sequence[str], ranking: Ranking, engine: Engine) -> dict[str, Any]:
    scores = _scores(ranking, engine, raw=body.raw_scores)
    warnings = {"warnings": [_warning(ranking, len(texts))]} if ranking.cut else {}
    return {
        "id": str(uuid4()),
        "object": "rerank",
        "model": engine.scoring.reranker.name,
        "results": [
            {"index": place, "relevance_score": scores[place]}
            | ({"document": {"text": texts[place]}} if body.return_documents else {})
            for place in ranking.order[: body.top_n]
        ],
        "meta": {"tokens": {"input_tokens": ranking.tokens}} | warnings,
        "usage": {"prompt_tokens": ranking.tokens, "total_tokens": ranking.tokens},
    }


def _warning(ranking: Ranking, texts: int) -> str:
    places = ", ".join(map(str, ranking.cut))
    return f"Of {len(ranking.cut)} of {texts} documents only a part was read beside the query; their indexes: {places}."


def _reply(content: Any, ranking: Ranking) -> Response:
    return Response(orjson.dumps(content), headers={TRUNCATED: str(len(ranking.cut))}, media_type="application/json")
