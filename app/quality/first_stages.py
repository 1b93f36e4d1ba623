"""The first stages of one variant: what each proposes for a query, and what is known of every candidate before the
cross-encoder reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from app.quality import dense
from app.quality.blend import Features, blend_of, weights_of
from app.quality.comparing import Comparer
from app.quality.types import Query
from app.stages.fuse import found, fuse
from app.stores.vectors import shortened
from app.types import Candidates, ChunkIds, Fusion, LexicalIndex, SparseIndex, Vector
from models.types import BiEncoder, Blends, Scores, SparseEncoder, SparseVector, Vectors

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
    near: Scores
    """What comes of comparing token by token; zeros where nothing is compared."""
    late: Blends | None
    """How that weighs beside the others; None where nothing is compared."""

    def places(self, first: str, amount: int) -> ChunkIds:
        """Where in the pool the best of a first stage are: in its order or, where tokens are compared, in theirs."""
        chosen = np.searchsorted(self.pool, self.rankings[first].chunks[:amount])
        if self.late is None:
            return chosen
        return chosen[np.argsort(-self.compared(first, chosen), kind="stable")]

    def compared(self, first: str, places: ChunkIds) -> Scores:
        """Scores of candidates that no reranker has read."""
        assert self.late is not None
        return self.known(places).weighed(weights_of(blend_of(self.late, first)))

    def known(self, places: ChunkIds, rerank: Scores | None = None) -> Features:
        """All that is known of candidates, with the cross-encoder's scores where it has read them."""
        read = np.zeros(len(places), np.float32) if rerank is None else rerank
        return Features(read, self.cosines[places], self.shares[places], self.near[places])


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A query as each first stage takes it."""

    text: str
    vector: Vector
    terms: SparseVector | None
    """None where no sparse encoder is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class FirstStages:
    """All chunks as vectors, as words and, with a sparse encoder, as terms."""

    vectors: Vectors
    words: LexicalIndex
    terms: SparseIndex | None
    texts: Sequence[str]
    comparer: Comparer | None
    """None where nothing is compared token by token."""
    fusion: Fusion
    depth: int
    """Chunks that a ranking goes down to."""

    @property
    def names(self) -> tuple[str, ...]:
        return first_stages(sparse=self.terms is not None)

    def propose(self, asked: Sequence[Asked], candidates: int) -> Iterator[Proposal]:
        near = dense.search(np.stack([each.vector for each in asked]), self.vectors, self.depth)
        for each, nearest in zip(asked, near, strict=True):
            alone = {"dense": nearest, "lexical": self.words.search(each.text, self.depth)}
            if self.terms is not None and each.terms is not None:
                alone["sparse"] = self.terms.search(each.terms, self.depth)
            rankings = {**alone, "fused": self._fused(alone, each)}
            pool = np.unique(np.concatenate([rankings[first].chunks[:candidates] for first in RERANKED]))
            cosines, shares = self.vectors[pool] @ each.vector, self.words.shares(each.text, pool)
            late = self.comparer.blends if self.comparer else None
            yield Proposal(rankings, pool, cosines, shares, self._compared(each.text, pool), late)

    def time(
        self,
        encoder: BiEncoder,
        sparse: SparseEncoder | None,
        dims: int | None,
        candidates: int,
        queries: Sequence[Query],
    ) -> dict[str, list[float]]:
        """Seconds of each stage for the first queries, one at a time; the very first only warms up."""
        timed = [query.text for query in [*queries[:1], *queries[:TIMED]]]
        taken = [self._laps(encoder, sparse, dims, candidates, text) for text in timed][1:]
        return {stage: [laps[stage] for laps in taken] for stage in taken[0]}

    def _compared(self, query: str, pool: ChunkIds) -> Scores:
        if self.comparer is None:
            return np.zeros(len(pool), np.float32)
        return self.comparer.compare(query, [self.texts[chunk] for chunk in pool])

    def _fused(self, alone: Mapping[str, Candidates], asked: Asked) -> Candidates:
        chunks = found(alone)
        known = {"dense": self.vectors[chunks] @ asked.vector, "lexical": self.words.shares(asked.text, chunks)}
        if self.terms is not None and asked.terms is not None:
            known["sparse"] = self.terms.scores(asked.terms, chunks)
        return fuse(alone, known, self.fusion)

    def _laps(
        self, encoder: BiEncoder, sparse: SparseEncoder | None, dims: int | None, candidates: int, query: str
    ) -> dict[str, float]:
        laps, clock = dict[str, float](), [perf_counter()]

        def lap(stage: str) -> None:
            clock.append(perf_counter())
            laps[stage] = clock[-1] - clock[-2]

        vectors = shortened(encoder.encode(encoder.tokenize([query], "query")), dims)
        lap("embed")
        terms = sparse.encode(sparse.tokenize([query], "query"), "query")[0] if sparse else None
        if sparse:
            lap("weigh")
        alone = {"dense": dense.search(vectors, self.vectors, self.depth)[0]}
        lap("dense")
        alone["lexical"] = self.words.search(query, self.depth)
        lap("lexical")
        if self.terms is not None and terms is not None:
            alone["sparse"] = self.terms.search(terms, self.depth)
            lap("sparse")
        fused = self._fused(alone, Asked(query, vectors[0], terms))
        lap("fuse")
        if self.comparer:
            laps["late"] = self.comparer.time(query, [self.texts[chunk] for chunk in fused.chunks[:candidates]])
        return laps


def first_stages(*, sparse: bool) -> tuple[str, ...]:
    """Those that are measured; the last one is all others together."""
    return ("dense", "lexical", *(["sparse"] if sparse else []), "fused")
