"""The first stages of one variant: what each proposes for a query, and what is known of every candidate before the
cross-encoder reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from app.quality import dense
from app.quality.types import Query
from app.stages.fuse import fuse
from app.types import Candidates, ChunkIds, Fusion, LexicalIndex
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
    depth: int
    """Chunks that a ranking goes down to."""

    def propose(self, queries: Sequence[Query], vectors: Vectors, candidates: int) -> Iterator[Proposal]:
        near = dense.search(vectors, self.vectors, self.depth)
        for query, vector, found in zip(queries, vectors, near, strict=True):
            worded = self.words.search(query.text, self.depth)
            rankings = {"dense": found, "lexical": worded, "fused": _fused(found, worded)}
            pool = np.unique(np.concatenate([rankings[first].chunks[:candidates] for first in RERANKED]))
            yield Proposal(rankings, pool, self.vectors[pool] @ vector, self.words.shares(query.text, pool))

    def time(self, encoder: BiEncoder, dims: int | None, queries: Sequence[Query]) -> dict[str, list[float]]:
        """Seconds of each stage for the first queries, one at a time; the very first only warms up."""
        taken = [self._laps(encoder, dims, query.text) for query in [*queries[:1], *queries[:TIMED]]][1:]
        return {stage: [laps[stage] for laps in taken] for stage in taken[0]}

    def _laps(self, encoder: BiEncoder, dims: int | None, query: str) -> dict[str, float]:
        clock = [perf_counter()]
        vector = dense.cut(encoder.encode(encoder.tokenize([query], "query")), dims)
        clock.append(perf_counter())
        near = dense.search(vector, self.vectors, self.depth)[0]
        clock.append(perf_counter())
        worded = self.words.search(query, self.depth)
        clock.append(perf_counter())
        _fused(near, worded)
        clock.append(perf_counter())
        return dict(zip(("embed", "dense", "lexical", "fuse"), np.diff(clock).tolist(), strict=True))


def _fused(near: Candidates, worded: Candidates) -> Candidates:
    """As a service does that nobody has told otherwise."""
    usual = Fusion()
    return fuse([near, worded], [usual.dense, usual.lexical], usual.k)
