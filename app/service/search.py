"""Search: embed → filter → retrieve → load → rerank → hits, each stage under the stopwatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from app.service.candidates import FirstStage, Proposal
from app.service.collections import Shelf
from app.stages.rerank import blended
from app.stores.documents import Found
from app.stores.filters import Filter
from app.stores.sqlite import Database
from app.telemetry import Metrics, Stopwatch
from app.types import Hit, StageScore
from models.types import Scores


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


class Search:
    """Answers queries."""

    def __init__(self, database: Database, metrics: Metrics, threads: Executor) -> None:
        self._metrics = metrics
        self._threads = threads
        self._first_stage = FirstStage(database, threads)

    async def answer(self, shelf: Shelf, query: Query) -> Answer:
        """All of it under one permit: a request that the reranker has no room for is refused before any work."""
        watch, sequence = Stopwatch(self._metrics, "search"), shelf.view.index.sequence
        with shelf.ranker.admit(query.depth) if query.rerank else nullcontext():
            with watch.stage("embed") as lap:
                vector, seen = await shelf.embedder.query(query.text, self._threads, lap)
            proposal = await self._first_stage.propose(
                shelf, vector, query.depth, query.filter, watch, exact=query.exact
            )
            hits, truncated = await self._rank(shelf, query, proposal, watch)
        kept = [hit for hit in hits if query.min_score is None or hit.score >= query.min_score]
        reranked = len(hits) if query.rerank else 0
        cut = {"embed": int(seen.truncated), "rerank": truncated}
        return Answer(kept[: query.top_k], len(proposal.found), reranked, sequence, cut, watch)

    async def _rank(self, shelf: Shelf, query: Query, proposal: Proposal, watch: Stopwatch) -> tuple[list[Hit], int]:
        """Hits in their final order, and how many pairs the reranker saw only in part."""
        if not query.rerank:
            return _ordered(proposal.found, proposal.dense, {"dense": proposal.dense}), 0
        texts = [found.reads for found in proposal.found]
        with watch.stage("rerank") as lap:
            scores, pairs = await shelf.ranker.score(query.text, texts, self._threads, lap)
        shelf.ranker.learn(pairs)
        final = blended(shelf.ranker.reranker.blends.dense, scores, proposal.dense)
        hits = _ordered(proposal.found, final, {"dense": proposal.dense, "rerank": scores})
        return hits, sum(pair.truncated for pair in pairs)


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
