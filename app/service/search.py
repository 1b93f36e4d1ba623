"""Search: embed → filter → retrieve → load → rerank → hits. One statement per stage, each under the stopwatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count

import numpy as np

from app.service.collections import Shelf
from app.stages.rerank import blended
from app.stages.retrieve import retrieve
from app.stores import documents
from app.stores import log as changelog
from app.stores.documents import Found
from app.stores.filters import Filter, allowed_chunks
from app.stores.sqlite import Database
from app.telemetry import Metrics, Stopwatch
from app.types import Candidates, ChunkIds, Hit, StageScore, Vector
from models.types import Scores

ATTEMPTS = 100
"""An attempt takes a millisecond and fails only when a candidate is replaced within it."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a caller asks for."""

    text: str
    top_k: int = 10
    candidates: int = 50
    filter: Filter | None = None
    rerank: bool = True
    exact: bool = False
    min_score: float | None = None

    @property
    def depth(self) -> int:
        """How many candidates the first stage is asked for."""
        return max(self.candidates, self.top_k) if self.rerank else self.top_k


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


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What the first stage found alive, best first."""

    found: list[Found]
    dense: Scores


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What of the candidates lives, and what has gone meanwhile."""

    found: list[Found]
    removed: ChunkIds | None
    sequence: int

    def took_any_of(self, chunks: ChunkIds) -> bool:
        return self.removed is None or bool(np.isin(self.removed, chunks, assume_unique=True).any())


class Search:
    """Answers queries."""

    def __init__(self, database: Database, metrics: Metrics, threads: Executor) -> None:
        self._database = database
        self._metrics = metrics
        self._threads = threads

    async def answer(self, shelf: Shelf, query: Query) -> Answer:
        """All of it under one permit: a request that the reranker has no room for is refused before any work."""
        watch = Stopwatch(self._metrics, "search")
        sequence = shelf.view.index.sequence
        with shelf.ranker.admit(query.depth) if query.rerank else nullcontext():
            with watch.stage("embed") as lap:
                vector, seen = await shelf.embedder.query(query.text, self._threads, lap)
            proposal = await self._propose(shelf, query, vector, watch)
            truncated = {"embed": int(seen.truncated)}
            if query.rerank:
                hits, truncated["rerank"] = await self._rerank(shelf, query, proposal, watch)
            else:
                hits = _ordered(proposal.found, proposal.dense, {"dense": proposal.dense})
        kept = [hit for hit in hits if query.min_score is None or hit.score >= query.min_score]
        reranked = len(hits) if query.rerank else 0
        return Answer(kept[: query.top_k], len(proposal.found), reranked, sequence, truncated, watch)

    async def _allowed(self, shelf: Shelf, condition: Filter | None) -> ChunkIds | None:
        if condition is None:
            return None
        return await self._database.read(lambda db: allowed_chunks(db, condition, shelf.collection.number))

    async def _propose(self, shelf: Shelf, query: Query, vector: Vector, watch: Stopwatch) -> _Proposal:
        """As many living candidates as asked for, though some may be deleted or replaced at this very moment.

        A chunk that goes while it is looked for may have a successor, which the index has held since before: then all
        is looked for again, so that a document under replacement is never missed.
        """
        seen, k = shelf.view.index.sequence, query.depth
        for attempt in count():
            with watch.stage("filter"):
                allowed = await self._allowed(shelf, query.filter)
            with watch.stage("retrieve"):
                near = await retrieve(shelf.view.index, vector, k, allowed, self._threads, exact=query.exact)
            with watch.stage("load"):
                loaded = await self._load(shelf, near, seen)
            if attempt < ATTEMPTS and loaded.took_any_of(near.chunks if allowed is None else allowed):
                seen = loaded.sequence
            elif len(loaded.found) >= query.depth or len(near) < k:
                break
            else:
                k *= 2
        return _with_scores(loaded.found[: query.depth], near)

    async def _load(self, shelf: Shelf, near: Candidates, seen: int) -> _Loaded:
        number = shelf.collection.number
        return await self._database.read(
            lambda db: _Loaded(
                documents.load(db, number, near.chunks), changelog.removed(db, number, seen), changelog.head(db, number)
            )
        )

    async def _rerank(self, shelf: Shelf, query: Query, proposal: _Proposal, watch: Stopwatch) -> tuple[list[Hit], int]:
        """Hits in their final order, and how many pairs the reranker saw only in part."""
        texts = [found.reads for found in proposal.found]
        with watch.stage("rerank") as lap:
            scores, pairs = await shelf.ranker.score(query.text, texts, self._threads, lap)
        final = blended(shelf.ranker.reranker.blend, scores, proposal.dense)
        hits = _ordered(proposal.found, final, {"dense": proposal.dense, "rerank": scores})
        return hits, sum(pair.truncated for pair in pairs)


def _with_scores(found: list[Found], near: Candidates) -> _Proposal:
    score = dict(zip(near.chunks.tolist(), near.scores.tolist(), strict=True))
    return _Proposal(found, np.array([score[each.chunk] for each in found], dtype=np.float32))


def _ordered(found: Sequence[Found], final: Scores, stages: Mapping[str, Scores]) -> list[Hit]:
    """Hits by final score; equals stay in first-stage order."""
    ranks = {stage: _ranks(scores) for stage, scores in stages.items()}
    return [
        Hit(
            chunk=found[i].chunk,
            document=found[i].document,
            title=found[i].title,
            text=found[i].text,
            start=found[i].start,
            end=found[i].end,
            metadata=found[i].metadata,
            score=float(final[i]),
            stages={stage: StageScore(float(stages[stage][i]), ranks[stage][i]) for stage in stages},
        )
        for i in np.argsort(-final, kind="stable").tolist()
    ]


def _ranks(scores: Scores) -> list[int]:
    """Each one's place among them, counted from 1."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks.tolist()
