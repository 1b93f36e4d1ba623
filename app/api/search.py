"""POST /search."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from app.api.checks import check_search
from app.api.deps import EngineDep, StrictRoute, aside, in_time
from app.api.schemas import Part, SearchBody, SearchReply
from app.service.collections import Shelf
from app.service.search import Answer, Query
from app.settings import Settings
from app.stages.filter import parse
from app.stores.filters import Filter
from app.telemetry import Stopwatch
from app.types import Hit

router = APIRouter(tags=["search"], route_class=StrictRoute)


@router.post("/search", response_model=SearchReply, summary="Find the chunks that answer a query")
async def search(body: SearchBody, request: Request, engine: EngineDep) -> Response:
    condition = await aside(request, lambda: _condition(body, engine.settings))
    shelf = engine.collections.shelf(body.collection)
    query = _query(body, condition, engine.settings)
    answer = await in_time(request, engine.settings.search_timeout, engine.search.answer(shelf, query))
    reply = orjson.dumps(_reply(shelf, query, answer, set(body.include)))
    return Response(reply, media_type="application/json", headers={"Server-Timing": _server_timing(answer.watch)})


def _condition(body: SearchBody, settings: Settings) -> Filter | None:
    """The search's filter, once nothing is wrong with the search."""
    check_search(body, settings)
    return parse(body.filter, settings.max_filter_conditions) if body.filter else None


def _query(body: SearchBody, condition: Filter | None, settings: Settings) -> Query:
    """Defaults give way to the limits."""
    top_k, candidates = min(body.top_k, settings.max_top_k), min(body.candidates, settings.max_candidates)
    return Query(body.query, top_k, candidates, condition, body.rerank, body.exact, body.min_score)


def _reply(shelf: Shelf, query: Query, answer: Answer, include: set[Part]) -> dict[str, Any]:
    """As SearchReply has it; built by hand, since validating our own answer again costs more than making it."""
    reranker = shelf.ranker.reranker.name if query.rerank else None
    return {
        "collection": shelf.collection.name,
        "hits": [_hit(hit, include) for hit in answer.hits],
        "candidates": answer.candidates,
        "reranked": answer.reranked,
        "truncated": answer.truncated,
        "timings": _timings(answer.watch),
        "total_ms": _ms(answer.watch.total),
        "models": {"encoder": shelf.embedder.encoder.name, "reranker": reranker},
        "index": {"fingerprint": shelf.collection.fingerprint, "sequence": answer.sequence},
    }


def _hit(hit: Hit, include: set[Part]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": str(hit.chunk),
        "document_id": hit.document,
        "score": hit.score,
        "start": hit.start,
        "end": hit.end,
    }
    if "title" in include:
        shown["title"] = hit.title
    if "text" in include:
        shown["text"] = hit.text
    if "metadata" in include:
        shown["metadata"] = hit.metadata
    if "stages" in include:
        shown["stages"] = {name: {"score": each.score, "rank": each.rank} for name, each in hit.stages.items()}
    return shown


def _timings(watch: Stopwatch) -> dict[str, dict[str, float]]:
    return {
        name: {"queue": _ms(lap.queued), "compute": _ms(lap.seconds - lap.queued)} for name, lap in watch.laps.items()
    }


def _server_timing(watch: Stopwatch) -> str:
    parts = []
    for name, lap in watch.laps.items():
        if lap.queued:
            parts.append(f"{name}-queue;dur={_ms(lap.queued)}")
        parts.append(f"{name};dur={_ms(lap.seconds - lap.queued)}")
    return ", ".join([*parts, f"total;dur={_ms(watch.total)}"])


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
