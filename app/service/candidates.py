"""The first stage: filter → retrieve → fuse → load → late, until it gives living candidates of one moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

import apsw
import numpy as np
from numpy.typing import NDArray

from app.service.shelf import Shelf
from app.service.sieve import Sieve
from app.stages.compare import blend_of, compare
from app.stages.fuse import SAMPLE, found, fuse
from app.stages.rerank import weighed
from app.stages.retrieve import retrieve_dense, retrieve_lexical, retrieve_sparse
from app.stores import documents
from app.stores import log as changelog
from app.stores.documents import Found
from app.stores.filters import Filter
from app.stores.sqlite import Database
from app.stores.supersession import successors
from app.stores.vectors import contains
from app.telemetry import Stopwatch
from app.types import Candidates, ChunkIds, Fusion, Mode, Vector
from models.types import Blend, LateHead, Scores, SparseVector, TokenQuery

ATTEMPTS = 5
"""Each takes a millisecond or two, and only a candidate that is replaced within it calls for another."""

Ranks = list[int | None]


@dataclass(frozen=True, slots=True)
class Aim:
    """What the first stage looks for, and how."""

    text: str
    vector: Vector | None
    """None where nothing asks for cosines: a search by words or terms alone that is not reranked."""
    terms: SparseVector | None
    """None where no index of terms is asked."""
    depth: int
    mode: Mode
    fusion: Fusion
    filter: Filter | None = None
    exact: bool = False
    superseded: bool = False
    """Whether documents that others supersede are found too."""
    rerank: bool = False
    """Whether candidates come with the ids that the reranker reads, as far as they were kept."""
    tokens: TokenQuery | None = None
    """The query's tokens, where candidates are compared by them."""

    @property
    def reach(self) -> int:
        """How many each stage is asked for."""
        return max(self.depth, SAMPLE) if self.mode == "hybrid" else self.depth


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one stage thinks of each candidate, and the place that it gave it in its own ranking."""

    scores: Scores
    ranks: Ranks

    def at(self, places: NDArray[np.intp]) -> Opinion:
        return Opinion(self.scores[places], [self.ranks[place] for place in places.tolist()])


@dataclass(frozen=True, slots=True)
class Proposal:
    """Living chunks, best first, and every stage's opinion of them."""

    found: list[Found]
    opinions: dict[str, Opinion]
    scores: Scores
    """What they are in order by."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What of the candidates lives, and which chunks have gone since the search began."""

    found: list[Found]
    gone: ChunkIds | None
    """None when the log has forgotten some of it."""
    sequence: int

    def took_any_of(self, ascending: ChunkIds) -> bool:
        """On the event loop: of a million chunks in no more than some microseconds for each that has gone."""
        return self.gone is None or bool(contains(ascending, self.gone).any())


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """All that was found, and what every stage makes of it."""

    chunks: ChunkIds
    rankings: Mapping[str, Candidates]
    scores: Mapping[str, Scores]
    """In the order of the chunks."""
    order: Candidates
    """That of the search."""
    last_word: Scores
    """Which it comes from."""

    def goes_on_after(self, reach: int) -> bool:
        """Whether any stage may have more than it was asked for."""
        return any(len(ranking) >= reach for ranking in self.rankings.values())

    def of(self, living: list[Found]) -> Proposal:
        places = {chunk: place for place, chunk in enumerate(self.chunks.tolist())}
        chunks = [each.chunk for each in living]
        rows = [places[chunk] for chunk in chunks]
        opinions = {
            stage: Opinion(scores[rows], _ranks(chunks, self.rankings.get(stage)))
            for stage, scores in self.scores.items()
        }
        return Proposal(living, opinions, self.last_word[rows])


class FirstStage:
    """Proposes as many living candidates as asked for, though documents come, go and are replaced meanwhile."""

    def __init__(self, database: Database, sieve: Sieve, threads: Executor) -> None:
        self._database = database
        self._sieve = sieve
        self._threads = threads

    async def propose(self, shelf: Shelf, aim: Aim, watch: Stopwatch) -> Proposal:
        """A chunk that goes while it is looked for may have a successor, which the indexes have held since before. So
        all is looked for again, and a document under replacement is found in one version or the other.
        """
        seen, k, attempt = shelf.indexes.dense.index.sequence, aim.depth, 1
        while True:
            reach = replace(aim, depth=k).reach
            with watch.stage("filter"):
                allowed = await self.allowed(shelf, aim.filter)
            with watch.stage("retrieve"):
                rankings = await self._retrieve(shelf, aim, reach, allowed)
            with watch.stage("fuse"):
                view = await self._fuse(shelf, aim, rankings)
            with watch.stage("load"):
                loaded = await self._load(shelf, aim, view.order.chunks[:k], seen)
            if attempt < ATTEMPTS and loaded.took_any_of(np.sort(view.order.chunks) if allowed is None else allowed):
                seen, attempt = loaded.sequence, attempt + 1
            elif len(loaded.found) < aim.depth and (len(view.order) > k or view.goes_on_after(reach)):
                k *= 2
            else:
                return await self._compare(shelf, aim, view.of(loaded.found[: aim.depth]), watch)

    async def _compare(self, shelf: Shelf, aim: Aim, proposal: Proposal, watch: Stopwatch) -> Proposal:
        """The same in the order that comes of comparing token by token, where that is asked."""
        if aim.tokens is None or (late := shelf.late) is None:
            return proposal
        with watch.stage("late"):
            work = partial(_compared, proposal, aim.tokens, late, blend_of(late, aim.mode))
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def allowed(self, shelf: Shelf, condition: Filter | None) -> ChunkIds | None:
        """The chunks that a filter leaves; None where all may answer."""
        return None if condition is None else await self._sieve.allowed(shelf.collection.number, condition)

    async def _retrieve(self, shelf: Shelf, aim: Aim, k: int, allowed: ChunkIds | None) -> dict[str, Candidates]:
        """Each stage's own ranking; those of a hybrid search are found side by side."""
        asked, indexes = {}, shelf.indexes
        if aim.mode in ("hybrid", "dense") and aim.vector is not None:
            asked["dense"] = retrieve_dense(indexes.dense.index, aim.vector, k, allowed, self._threads, exact=aim.exact)
        if aim.mode in ("hybrid", "lexical"):
            asked["lexical"] = retrieve_lexical(indexes.lexical.index, aim.text, k, allowed, self._threads)
        if aim.terms is not None and indexes.sparse:
            asked["sparse"] = retrieve_sparse(indexes.sparse.index, aim.terms, k, allowed, self._threads)
        return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))

    async def _load(self, shelf: Shelf, aim: Aim, chunks: ChunkIds, seen: int) -> _Loaded:
        number, tokenisation = shelf.collection.number, shelf.ranker.reranker.tokenisation if aim.rerank else None

        def load(db: apsw.Connection) -> _Loaded:
            found = documents.load(db, number, chunks, tokenisation, tokens=aim.tokens is not None)
            if not aim.superseded:
                past = successors(db, number, (each.document for each in found))
                found = [each for each in found if each.document not in past]
            return _Loaded(found, changelog.removed(db, number, seen), changelog.head(db, number))

        return await self._database.read(load)

    async def _fuse(self, shelf: Shelf, aim: Aim, rankings: Mapping[str, Candidates]) -> _View:
        """Ask each stage about every candidate, also about those that only another one found; then put all in order."""
        chunks, indexes, vector = found(rankings), shelf.indexes, aim.vector

        def look() -> _View:
            scores: dict[str, Scores] = {}
            if vector is not None:
                near = indexes.dense.index.search_exact(vector, len(chunks), chunks)
                scores["dense"] = _scores_of(chunks, near)
            if aim.mode != "dense":
                scores["lexical"] = indexes.lexical.index.shares(aim.text, chunks)
            if aim.terms is not None and indexes.sparse:
                scores["sparse"] = indexes.sparse.index.scores(aim.terms, chunks)
            if aim.mode != "hybrid":
                return _View(chunks, rankings, scores, rankings[aim.mode], scores[aim.mode])
            fused = fuse(rankings, scores, aim.fusion)
            scores["fused"] = _scores_of(chunks, fused)
            return _View(chunks, {**rankings, "fused": fused}, scores, fused, scores["fused"])

        return await asyncio.get_running_loop().run_in_executor(self._threads, look)


def _compared(proposal: Proposal, query: TokenQuery, late: LateHead, blend: Blend) -> Proposal:
    found, opinions = proposal.found, proposal.opinions
    near = compare(query, [each.numbers for each in found], late)
    known = {stage: opinion.scores for stage, opinion in opinions.items()} | {"late": near}
    final = weighed(blend, known, len(found))
    order = np.argsort(-final, kind="stable")
    moved = {stage: opinion.at(order) for stage, opinion in opinions.items()}
    moved["late"] = Opinion(near[order], list(range(1, len(found) + 1)))
    return Proposal([found[place] for place in order.tolist()], moved, final[order])


def _scores_of(chunks: ChunkIds, ranking: Candidates) -> Scores:
    scores = dict(zip(ranking.chunks.tolist(), ranking.scores.tolist(), strict=True))
    return np.array([scores.get(chunk, 0.0) for chunk in chunks.tolist()], np.float32)


def _ranks(chunks: Sequence[int], ranking: Candidates | None) -> Ranks:
    places = {chunk: place for place, chunk in enumerate(ranking.chunks.tolist(), 1)} if ranking else {}
    return [places.get(chunk) for chunk in chunks]
