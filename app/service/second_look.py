"""A search looked at once more: by graph beside exactly, and with more candidates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from app.service.candidates import Aim, FirstStage, Proposal
from app.service.collections import Collections
from app.service.shelf import Shelf
from app.service.sieve import Sieve
from app.stages.rerank import Parts, Ranker, weighed
from app.stores.sqlite import Database
from app.telemetry import Lap, Metrics, Stopwatch
from app.types import Candidates, ChunkIds, Truncation, Vector, VectorIndex
from app.witness import BEST, DEPTHS, Beside
from models.types import Blend

ALIKE = 1e-6
"""Scores that are nearer than this differ by rounding: one chunk is as good as the other."""

DEEPEST = 1000
"""Candidates of one dive: their texts are in memory together."""

CENTRE_ROWS = 10_000
"""Vectors whose mean stands for that of all: it is off by a hundredth of their spread."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A search, so that it can be asked again."""

    collection: str
    number: int
    aim: Aim
    blend: Blend | None
    """None where nothing was reranked."""
    policy: Truncation
    candidates: frozenset[int]
    """The chunks that the search had to choose from."""
    known: Mapping[int, float]
    """What the reranker thought of those that it has read."""


class Plunge:
    """A search's candidates and as many again, several times over; what was read before is not read again."""

    def __init__(self, asked: Asked, blend: Blend, proposal: Proposal, parts: Sequence[Parts], ranker: Ranker) -> None:
        self._asked = asked
        self._blend = blend
        self._proposal = proposal
        self._ranker = ranker
        self._parts = parts
        chunks = [found.chunk for found in proposal.found]
        self._unread = [place for place, chunk in enumerate(chunks) if chunk not in asked.known]
        self._scores = np.array([asked.known.get(chunk, 0.0) for chunk in chunks], np.float32)

    @property
    def candidates(self) -> int:
        return len(self._asked.candidates)

    @property
    def depth(self) -> int:
        return len(self._scores)

    @property
    def left(self) -> int:
        return len(self._unread)

    async def read(self, amount: int, lap: Lap) -> None:
        places, self._unread = self._unread[:amount], self._unread[amount:]
        scored = await self._ranker.score_idly([self._parts[place] for place in places], lap)
        self._scores[places] = scored.scores

    def places(self) -> tuple[int, ...]:
        """By the stage that proposes: where tokens are compared, more candidates stand in another order than fewer."""
        aim, opinions = self._asked.aim, self._proposal.opinions
        ranks = opinions["fused" if aim.mode == "hybrid" else aim.mode].ranks
        order = sorted(range(self.depth), key=lambda each: ranks[each] or self.depth)
        places = {each: place for place, each in enumerate(order, 1)}
        return tuple(places[each] for each in self._best())

    def missed(self) -> int:
        found = self._proposal.found
        return sum(found[each].chunk not in self._asked.candidates for each in self._best())

    def _best(self) -> list[int]:
        known = {stage: opinion.scores for stage, opinion in self._proposal.opinions.items()}
        final = self._blend.rerank * self._scores + weighed(self._blend, known, self.depth)
        return list(np.argsort(-final, kind="stable")[:BEST].tolist())


class Hindsight:
    """Asks searches again, on a thread that no search waits for."""

    def __init__(
        self, database: Database, sieve: Sieve, collections: Collections, metrics: Metrics, thread: Executor
    ) -> None:
        self._collections = collections
        self._metrics = metrics
        self._thread = thread
        self._first_stage = FirstStage(database, sieve, thread)

    def open(self) -> Mapping[str, int]:
        return {name: shelf.collection.number for name, shelf in self._collections.opened.items()}

    async def beside(self, asked: object, efforts: Sequence[int]) -> Beside:
        assert isinstance(asked, Asked)
        aim, shelf = asked.aim, self._shelf(asked)
        if shelf is None or aim.exact or aim.vector is None or aim.mode not in ("hybrid", "dense"):
            return Beside("exact" if shelf else "gone")
        allowed = await self._first_stage.allowed(shelf, aim.filter)
        index, reach = shelf.indexes.dense.index, aim.reach
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, compared, index, aim.vector, reach, allowed, efforts
        )

    async def dive(self, asked: object, times: int) -> Plunge | None:
        assert isinstance(asked, Asked)
        shelf = self._shelf(asked)
        depth = min(times * asked.aim.depth, DEEPEST)
        if shelf is None or asked.blend is None or depth <= asked.aim.depth:
            return None
        aim = replace(asked.aim, depth=depth)
        proposal = await self._first_stage.propose(shelf, aim, Stopwatch(self._metrics, "observe"))
        texts, kept = [found.reads for found in proposal.found], [found.ids for found in proposal.found]
        parts = await shelf.ranker.read(aim.text, texts, asked.policy, self._thread, kept)
        return Plunge(asked, asked.blend, proposal, parts, shelf.ranker)

    async def centre(self, collection: str) -> Vector | None:
        if (shelf := self._collections.opened.get(collection)) is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._thread, _centre, shelf.indexes.dense.index)

    def takes(self, collection: str, candidates: int) -> float:
        shelf = self._collections.opened.get(collection)
        return shelf.ranker.takes(candidates) if shelf else 0.0

    def effort(self, collection: str) -> int | None:
        shelf = self._collections.opened.get(collection)
        return shelf.indexes.dense.index.ef if shelf else None

    def tune(self, collection: str, ef: int) -> None:
        if shelf := self._collections.opened.get(collection):
            shelf.indexes.dense.tune(ef)

    def _shelf(self, asked: Asked) -> Shelf | None:
        shelf = self._collections.opened.get(asked.collection)
        return shelf if shelf and shelf.collection.number == asked.number else None


def compared(
    index: VectorIndex, vector: Vector, reach: int, allowed: ChunkIds | None, efforts: Sequence[int]
) -> Beside:
    """Discarded when the index changed meanwhile: an exact answer of another state would be none."""
    before = index.state
    by_graph = {ef: index.search_graph(vector, reach, allowed, ef) for ef in efforts}
    found = {ef: each for ef, each in by_graph.items() if each is not None}
    if len(found) < len(by_graph):
        return Beside("exact")
    exact = index.search_exact(vector, reach, allowed)
    if index.state is not before:
        return Beside("changed")
    return Beside("compared", {ef: _recalls(each, exact) for ef, each in found.items()})


def _recalls(found: Candidates, exact: Candidates) -> dict[int, float]:
    """For each depth that was asked for and is there; a chunk as near as the last of the nearest is one of them."""
    return {
        k: float(np.mean(found.scores[:k] >= exact.scores[k - 1] - ALIKE))
        for k in DEPTHS
        if k <= min(len(exact), len(found))
    }


def _centre(index: VectorIndex) -> Vector | None:
    if not len(index):
        return None
    mean: Vector = index.sample(CENTRE_ROWS).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
