"""The first stages of one variant: what each proposes for a query, and what is known of every candidate before the
cross-encoder reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from app.quality import dense
from app.quality.types import Query
from app.stages.fuse import found, fuse
from app.types import Candidates, ChunkIds, Fusion, LexicalIndex, Vector
from models.types import BiEncoder, Scores, Vectors

FIRST = ("dense", "lexical", "fused")
RERANKED = ("dense", "fused")
"""Those whose candidates go on to the second stage."""

TIMED = 50
"""Queries that are timed one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """What the first stages make of one query."""

    rankings: Mapping[str, Candidates]
    pool: ChunkIds
    """Every chunk that some second stage may want, in rising order."""
    cosines: Scores
    shares: Scores

    def places(self, first: str, amount: int) -> ChunkIds:
        """Where in the pool the best of a first stage are."""
        return np.searchsorted(self.pool, self.rankings[first].chunks[:amount])


@dataclass(frozen=True, slots=True, eq=False)
class FirstStages:
    """All chunks as vectors and as words."""

    vectors: Vectors
    words: LexicalIndex
    fusion: Fusion
    depth: int
    """Chunks that a ranking goes down to."""

    def propose(self, queries: Sequence[Query], vectors: Vectors, candidates: int) -> Iterator[Proposal]:
        near = dense.search(vectors, self.vectors, self.depth)
        for query, vector, nearest in zip(queries, vectors, near, strict=True):
            alone = {"dense": nearest, "lexical": self.words.search(query.text, self.depth)}
            rankings = {**alone, "fused": self._fused(alone, query.text, vector)}
            pool = np.unique(np.concatenate([rankings[first].chunks[:candidates] for first in RERANKED]))
            yield Proposal(rankings, pool, self.vectors[pool] @ vector, self.words.shares(query.text, pool))

    def time(self, encoder: BiEncoder, dims: int | None, queries: Sequence[Query]) -> dict[str, list[float]]:
        """Seconds of each stage for the first queries, one at a time; the very first only warms up."""
        taken = [self._laps(encoder, dims, query.text) for query in [*queries[:1], *queries[:TIMED]]][1:]
        return {stage: [laps[stage] for laps in taken] for stage in taken[0]}

    def _fused(self, alone: Mapping[str, Candidates], query: str, vector: Vector) -> Candidates:
        chunks = found(alone)
        known = {"dense": self.vectors[chunks] @ vector, "lexical": self.words.shares(query, chunks)}
        return fuse(alone, known, self.fusion)

    def _laps(self, encoder: BiEncoder, dims: int | None, query: str) -> dict[str, float]:
        clock = [perf_counter()]
        vectors = dense.cut(encoder.encode(encoder.tokenize([query], "query")), dims)
        clock.append(perf_counter())
        near = dense.search(vectors, self.vectors, self.depth)[0]
        clock.append(perf_counter())
        worded = self.words.search(query, self.depth)
        clock.append(perf_counter())
        self._fused({"dense": near, "lexical": worded}, query, vectors[0])
        clock.append(perf_counter())
        return dict(zip(("embed", "dense", "lexical", "fuse"), np.diff(clock).tolist(), strict=True))
