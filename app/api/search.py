"""POST /search."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from app.api.checks import check_search
from app.api.contract import OF_COLLECTIONS, refusals
from app.api.deps import EngineDep, StrictRoute, aside, in_time
from app.api.schemas import told
from app.api.search_schemas import Part, SearchBody, SearchReply
from app.engine import Engine
from app.service.present import Shape
from app.service.search import DATE, Answer, Query
from app.service.shelf import Shelf
from app.settings import Settings
from app.stages.filter import parse
from app.stages.refresh import Recency
from app.stores.filters import And, Filter
from app.telemetry import Stopwatch
from app.types import Hit

RESERVE = 0.003
"""Seconds before a deadline that are kept for putting the answer together."""

router = APIRouter(tags=["search"], route_class=StrictRoute)


@router.post(
    "/search",
    response_model=SearchReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="Find the chunks that answer a query",
)
async def search(body: SearchBody, request: Request, engine: EngineDep) -> Response:
    deadline = _deadline(body)
    condition = await aside(request, lambda: _condition(body, engine.settings))
    shelf = engine.collections.shelf(body.collection)
    query = await _calibrated(body, _query(body, condition, deadline, engine.settings), shelf, engine)
    answer = await in_time(request, engine.settings.search_timeout, engine.search.answer(shelf, query))
    reply = orjson.dumps(_reply(body.collection, shelf, query, answer, set(body.include)))
    return Response(reply, media_type="application/json", headers={"Server-Timing": _server_timing(answer.watch)})


def _condition(body: SearchBody, settings: Settings) -> Filter | None:
    """The search's filter, once nothing is wrong with the search."""
    check_search(body, settings)
    asked = parse(body.filter, settings.max_filter_conditions) if body.filter else None
    if body.newer_than is None:
        return asked
    newer = parse({DATE: {"$gt": body.newer_than}}, 1)
    others = asked.parts if isinstance(asked, And) else (asked,) if asked else ()
    return And((*others, newer)) if others else newer


def _query(body: SearchBody, condition: Filter | None, deadline: float | None, settings: Settings) -> Query:
    """Defaults give way to the limits."""
    wanted = body.candidates or settings.candidates
    candidates = settings.auto_candidates if wanted == "auto" else wanted
    return Query(
        body.query,
        min(body.top_k, settings.max_top_k),
        min(candidates, settings.max_candidates),
        body.mode or settings.mode,
        replace(settings.usual_fusion, **body.fusion.model_dump(exclude_none=True)),
        condition,
        True if body.rerank is None else body.rerank,
        body.exact,
        body.min_score,
        body.on_truncation,
        body.superseded,
        Recency(**body.recency.model_dump()) if body.recency else None,
        _shape(body),
        body.explain,
        late=body.late,
        adaptive=wanted == "auto",
        deadline=deadline,
    )


def _deadline(body: SearchBody) -> float | None:
    """By the event loop's clock, from now on."""
    return None if body.deadline_ms is None else asyncio.get_running_loop().time() + body.deadline_ms / 1000 - RESERVE


async def _calibrated(body: SearchBody, query: Query, shelf: Shelf, engine: Engine) -> Query:
    """With what labels taught about the collection's scores; who does not ask for reranking follows their advice."""
    calibration = await engine.relevance.find(shelf, query.mode, late=query.late)
    rerank = calibration.rerank if calibration and body.rerank is None else query.rerank
    if body.min_relevance is not None:
        await engine.relevance.require(shelf, query.mode, query.fusion, rerank=rerank, late=query.late)
    return replace(query, rerank=rerank, min_relevance=body.min_relevance, calibration=calibration)


def _shape(body: SearchBody) -> Shape:
    return Shape(
        distinct=body.distinct,
        diversity=body.diversity,
        per_document=body.per_group if body.group_by else None,
        expand=body.expand,
        max_tokens=body.max_tokens,
        highlight=body.highlight,
    )


def _reply(name: str, shelf: Shelf, query: Query, answer: Answer, include: set[Part]) -> dict[str, Any]:
    """As SearchReply has it; built by hand, since validating our own answer again costs more than making it. The name
    is the one that was asked for: what a standby takes the place of is called otherwise."""
    reranker = shelf.ranker.reranker.name if query.rerank else None
    reply = {
        "collection": name,
        "mode": query.mode,
        "hits": [_hit(hit, include) for hit in answer.hits],
        "candidates": answer.candidates,
        "reranked": answer.reranked,
        "truncated": answer.truncated,
        "timings": _timings(answer.watch),
        "total_ms": _ms(answer.watch.total),
        "models": {"encoder": shelf.embedder.encoder.name, "reranker": reranker, **_weighing(shelf, query)},
        "index": {"fingerprint": shelf.collection.fingerprint, "sequence": answer.sequence},
    }
    return reply | _remarks(query, answer)


def _weighing(shelf: Shelf, query: Query) -> dict[str, str]:
    return {"sparse": shelf.weigher.encoder.name} if shelf.weigher and query.asks_for_terms(shelf) else {}


def _remarks(query: Query, answer: Answer) -> dict[str, Any]:
    """What is there only where there is something to say."""
    said: dict[str, Any] = {"explanation": asdict(answer.explanation)} if answer.explanation else {}
    if answer.late:
        said["degraded"] = {"stage": "rerank", "reason": "deadline"}
    if answer.left_out:
        said["left_out"] = answer.left_out
    if answer.nothing_relevant:
        said["nothing_relevant"] = True
    if query.calibration and query.calibration.advice:
        done = "Reranked as asked." if query.rerank else "Not reranked; say rerank: true to do it all the same."
        said["advice"] = f"{done} {query.calibration.advice}"
    return said


def _hit(hit: Hit, include: set[Part]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": str(hit.chunk),
        "document_id": hit.document,
        "score": hit.score,
        "start": hit.start,
        "end": hit.end,
        "tokens": asdict(hit.tokens),
        **told(hit.place),
        **_presented(hit),
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


def _presented(hit: Hit) -> dict[str, Any]:
    """What is there only where it was asked for."""
    shown: dict[str, Any] = {}
    if hit.context:
        shown["context"] = asdict(hit.context)
        shown["merged"] = [str(chunk) for chunk in hit.merged]
    for name, span in (("window", hit.window), ("highlight", hit.highlight)):
        if span:
            shown[name] = dict(zip(("start", "end"), span, strict=True))
    if hit.relevance is not None:
        shown["relevance"] = hit.relevance
    if hit.matches is not None:
        shown["matches"] = list(hit.matches)
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
