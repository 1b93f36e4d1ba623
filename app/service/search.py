"""Search: embed, weigh → filter → retrieve → fuse → load → late → rerank → hits, each stage under the stopwatch."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from math import inf
from time import time_ns

import numpy as np

from app.batcher import Permit
from app.errors import Fault, Invalid
from app.service.candidates import Aim, FirstStage, Proposal
from app.service.explain import Explainer, Explanation
from app.service.present import Presenter, Shape
from app.service.relevance import rated, scale_of
from app.service.second_look import Asked
from app.service.second_stage import Brief, Ranked, SecondStage, unread
from app.service.shelf import Shelf
from app.service.sieve import Sieve
from app.stages.calibrate import LEVEL
from app.stages.embed import Sought
from app.stages.refresh import Recency, refreshed
from app.stages.weigh import Weigher
from app.stores.filters import Filter
from app.stores.metadata import instant
from app.stores.sqlite import Database
from app.telemetry import Metrics, Stopwatch
from app.types import Calibration, Fusion, Hit, Mode, Truncation, Vector
from app.witness import Sighting, Traffic, Witness
from models.types import Blend, SparseVector, TokenQuery, Tokens

DATE = "date"
"""The field of metadata that says of which day a document is."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a caller asks for."""

    text: str
    top_k: int = 10
    candidates: int = 50
    mode: Mode = "hybrid"
    fusion: Fusion = field(default_factory=Fusion)
    filter: Filter | None = None
    rerank: bool = True
    exact: bool = False
    min_score: float | None = None
    on_truncation: Truncation = "report"
    superseded: bool = False
    recency: Recency | None = None
    shape: Shape = field(default_factory=Shape)
    explain: bool = False
    min_relevance: float | None = None
    calibration: Calibration | None = None
    """What labels taught about the collection's scores, where that holds for this search."""
    late: bool = True
    """Whether candidates are compared token by token, in a collection that has what it takes."""
    adaptive: bool = False
    """Whether reranking shall stop before the last candidate, where no more of them could be among the best."""
    deadline: float | None = None
    """When the answer must be there, by the event loop's clock."""

    def depth(self, *, compares: bool) -> int:
        """How many candidates the first stage is asked for: more than are answered, where their order may change, or
        where others are answered than the first ones."""
        least = LEVEL if self.calibration else 1
        wide = self.rerank or compares or self.mode == "hybrid" or self.looks_further
        return max(self.candidates if wide else self.top_k, self.top_k, least)

    @property
    def looks_further(self) -> bool:
        """Whether others than the best `top_k` may be shown: newness may raise them, or they take others' places."""
        return self.recency is not None or self.shape.looks_further

    @property
    def may_stop(self) -> bool:
        """Whether reranking may end where no more could be among the best."""
        return self.adaptive and not self.looks_further

    @property
    def left(self) -> float:
        """Seconds until the answer must be there."""
        return inf if self.deadline is None else self.deadline - asyncio.get_running_loop().time()

    def finds_relevant(self, hit: Hit) -> bool:
        return self.min_relevance is None or (hit.relevance is not None and hit.relevance >= self.min_relevance)

    def aim(self, vector: Vector | None, terms: SparseVector | None, tokens: TokenQuery | None) -> Aim:
        """What the first stage has to know of it."""
        return Aim(
            self.text,
            vector,
            terms,
            self.depth(compares=tokens is not None),
            self.mode,
            self.fusion,
            self.filter,
            self.exact,
            self.superseded,
            self.rerank,
            tokens,
        )

    def compares_tokens(self, shelf: Shelf) -> bool:
        """A search by words or terms alone is left as it is, unless the reranker is to read what it finds."""
        return shelf.late is not None and self.late and (self.rerank or self.mode in ("hybrid", "dense"))

    def asks_for_terms(self, shelf: Shelf) -> bool:
        return self.mode == "sparse" or (self.mode == "hybrid" and shelf.weigher is not None)


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, and how they came about."""

    hits: list[Hit]
    candidates: int
    reranked: int
    sequence: int
    """The last change that the index had seen."""
    truncated: dict[str, int]
    """Of how many texts each model saw only a part."""
    watch: Stopwatch
    explanation: Explanation | None = None
    nothing_relevant: bool = False
    """There were candidates, and none reached the relevance that was asked for."""
    late: bool = False
    """The deadline came before the reranker had read all that it should."""
    left_out: int = 0
    """Hits that the answer had no room for."""


class Search:
    """Answers queries."""

    def __init__(
        self,
        database: Database,
        sieve: Sieve,
        metrics: Metrics,
        threads: Executor,
        traffic: Traffic,
        witness: Witness | None,
    ) -> None:
        self._metrics = metrics
        self._threads = threads
        self._traffic = traffic
        self._witness = witness
        self._first_stage = FirstStage(database, sieve, threads)
        self._second_stage = SecondStage(threads)
        self._presenter = Presenter(database, threads)
        self._explainer = Explainer(database, sieve, threads)

    async def answer(self, shelf: Shelf, query: Query) -> Answer:
        with self._traffic.passing():
            return await self._answer(shelf, query)

    async def _answer(self, shelf: Shelf, query: Query) -> Answer:
        """All of it under one permit: a request that the reranker has no room for is refused before any work."""
        watch, sequence = Stopwatch(self._metrics, "search"), shelf.indexes.dense.index.sequence
        with _room(shelf, query), _ahead_of_ingest(shelf, query):
            sought = await self._embed(shelf, query, watch)
            vector, embedded = (sought.vector, sought.seen) if sought else (None, None)
            terms, weighed = await self._weigh(shelf, query, watch)
            aim = query.aim(vector, terms, sought.tokens if sought and query.compares_tokens(shelf) else None)
            proposal = await self._first_stage.propose(shelf, aim, watch)
            ranked = await self._rank(shelf, query, proposal, watch)
        scale = scale_of(query.calibration, query.fusion, rerank=ranked.read > 0)
        hits = rated(ranked.hits, scale)
        relevant = [hit for hit in _refreshed(hits, query.recency) if query.finds_relevant(hit)]
        kept = [hit for hit in relevant if query.min_score is None or hit.score >= query.min_score]
        if self._witness is not None:
            self._witness.saw(_sighting(shelf, query, aim, replace(ranked, hits=hits), embedded, len(kept)))
        shown = await self._presenter.present(shelf, query.shape, kept, query.top_k, vector, watch)
        explanation = None
        if query.explain:
            told, explanation = await self._explainer.explain(shelf, query.text, query.filter, shown.hits)
            shown = replace(shown, hits=told)
        cut = {"embed": int(embedded is not None and embedded.truncated), "rerank": ranked.truncated}
        if weighed is not None:
            cut["weigh"] = int(weighed.truncated)
        nothing = bool(hits) and not relevant and scale is not None  # else nobody knows
        return Answer(
            shown.hits,
            len(proposal.found),
            ranked.read,
            sequence,
            cut,
            watch,
            explanation,
            nothing,
            ranked.late,
            shown.left_out,
        )

    async def _embed(self, shelf: Shelf, query: Query, watch: Stopwatch) -> Sought | None:
        """The query as the encoder has it, unless nothing will be compared with it."""
        if query.mode in ("lexical", "sparse") and not query.rerank and not query.shape.highlight:
            return None
        with watch.stage("embed") as lap:
            sought = await shelf.embedder.query(query.text, self._threads, lap)
        _check_whole(query, sought.seen, "encoder")
        return sought

    async def _weigh(self, shelf: Shelf, query: Query, watch: Stopwatch) -> tuple[SparseVector | None, Tokens | None]:
        """The query's terms, where an index of terms is asked."""
        if not query.asks_for_terms(shelf):
            return None, None
        with watch.stage("weigh") as lap:
            terms, seen = await _weigher(shelf).query(query.text, self._threads, lap)
        _check_whole(query, seen, "sparse encoder")
        return terms, seen

    async def _rank(self, shelf: Shelf, query: Query, proposal: Proposal, watch: Stopwatch) -> Ranked:
        if not query.rerank:
            return Ranked(unread(proposal), 0)
        brief = Brief(
            query.text, query.on_truncation, _blend(shelf, query), query.top_k, query.may_stop, query.deadline
        )
        ranked = await self._second_stage.rank(shelf.ranker, brief, proposal, watch)
        if ranked.late:
            self._metrics.degraded.labels("rerank", "deadline").inc()
        return ranked


def _room(shelf: Shelf, query: Query) -> Permit:
    """What the reranker may be asked, if it is."""
    if not query.rerank:
        return nullcontext()
    return shelf.ranker.admit(
        query.depth(compares=False), adaptive=query.may_stop, wanted=query.top_k, seconds=query.left
    )


def _ahead_of_ingest(shelf: Shelf, query: Query) -> AbstractContextManager[None]:
    """So that the reranker is free when there is something to read for it."""
    return shelf.ranker.batcher.expecting() if query.rerank else nullcontext()


def _blend(shelf: Shelf, query: Query) -> Blend:
    """What labels taught about this collection goes before what the reranker came with."""
    if query.calibration and query.calibration.blend:
        return query.calibration.blend
    blends = shelf.ranker.reranker.blends
    return blends.dense if query.mode == "dense" else blends.hybrid


def _sighting(shelf: Shelf, query: Query, aim: Aim, ranked: Ranked, embedded: Tokens | None, shown: int) -> Sighting:
    """What there is to tell of it; takes some 20 microseconds with 50 candidates."""
    name, number = shelf.collection.name, shelf.collection.number
    known = {hit.chunk: hit.stages["rerank"].score for hit in ranked.hits if "rerank" in hit.stages}
    policy: Truncation = "window" if query.on_truncation == "window" else "report"
    candidates = frozenset(hit.chunk for hit in ranked.hits)
    asked = Asked(name, number, aim, _blend(shelf, query) if known else None, policy, candidates, known)
    length = embedded.total if embedded else None
    return Sighting(name, number, query.mode, ranked.hits, shown, ranked.read, ranked.late, length, aim.vector, asked)


def _weigher(shelf: Shelf) -> Weigher:
    if shelf.weigher is None:
        name = shelf.collection.name
        detail = f"is sparse, and collection '{name}' has no sparse encoder: search another way, or create a collection"
        raise Invalid(
            "There is nothing to search by terms.",
            [Fault("/mode", f"{detail} with one (its field sparse, or WINNOW_SPARSE) and ingest the documents there")],
        )
    return shelf.weigher


def _check_whole(query: Query, seen: Tokens, model: str) -> None:
    """Refuse what a model can't read whole, where that is asked for."""
    if seen.truncated and query.on_truncation == "refuse":
        detail = f"has {seen.total} tokens, of which the {model} reads {len(seen)}: shorten it"
        raise Invalid(f"The {model} can't read all of it.", [Fault("/query", detail)])


def _refreshed(hits: list[Hit], recency: Recency | None) -> list[Hit]:
    """In the order that newness gives them, by the date in their metadata, where that is asked for."""
    if recency is None:
        return hits
    stated = [hit.metadata.get(DATE) for hit in hits]
    dates = [instant(date) if isinstance(date, str) else None for date in stated]
    scores = refreshed(np.array([hit.score for hit in hits], np.float32), dates, time_ns() // 1000, recency)
    return [replace(hits[place], score=float(scores[place])) for place in np.argsort(-scores, kind="stable").tolist()]
