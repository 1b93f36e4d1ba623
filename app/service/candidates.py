"""The first stage: filter → retrieve → load, until it gives living candidates of one moment."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import apsw
import numpy as np

from app.service.collections import Shelf
from app.stages.retrieve import retrieve
from app.stores import documents
from app.stores import log as changelog
from app.stores.documents import Found
from app.stores.filters import Filter, allowed_chunks
from app.stores.sqlite import Database
from app.telemetry import Stopwatch
from app.types import Candidates, ChunkIds, Vector
from models.types import Scores

ATTEMPTS = 5
"""Each takes a millisecond or two, and only a candidate that is replaced within it calls for another."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Living chunks, best first, with their cosines."""

    found: list[Found]
    dense: Scores


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What of the candidates lives, and which chunks have gone since the search began."""

    found: list[Found]
    gone: ChunkIds | None
    """None when the log has forgotten some of it."""
    sequence: int

    def took_any_of(self, chunks: ChunkIds) -> bool:
        return self.gone is None or bool(np.isin(self.gone, chunks).any())


class FirstStage:
    """Proposes as many living candidates as asked for, though documents come, go and are replaced meanwhile."""

    def __init__(self, database: Database, threads: Executor) -> None:
        self._database = database
        self._threads = threads

    async def propose(
        self, shelf: Shelf, vector: Vector, depth: int, condition: Filter | None, watch: Stopwatch, *, exact: bool
    ) -> Proposal:
        """A chunk that goes while it is looked for may have a successor, which the index has held since before. So all
        is looked for again, and a document under replacement is found in one version or the other.
        """
        seen, k, attempt = shelf.view.index.sequence, depth, 1
        while True:
            with watch.stage("filter"):
                allowed = await self._allowed(shelf, condition)
            with watch.stage("retrieve"):
                near = await retrieve(shelf.view.index, vector, k, allowed, self._threads, exact=exact)
            with watch.stage("load"):
                loaded = await self._load(shelf, near, seen)
            if attempt < ATTEMPTS and loaded.took_any_of(near.chunks if allowed is None else allowed):
                seen, attempt = loaded.sequence, attempt + 1
            elif len(loaded.found) < depth and len(near) == k:
                k *= 2
            else:
                return _scored(loaded.found[:depth], near)

    async def _allowed(self, shelf: Shelf, condition: Filter | None) -> ChunkIds | None:
        if condition is None:
            return None
        return await self._database.read(lambda db: allowed_chunks(db, condition, shelf.collection.number))

    async def _load(self, shelf: Shelf, near: Candidates, seen: int) -> _Loaded:
        number = shelf.collection.number

        def load(db: apsw.Connection) -> _Loaded:
            found = documents.load(db, number, near.chunks)
            return _Loaded(found, changelog.removed(db, number, seen), changelog.head(db, number))

        return await self._database.read(load)


def _scored(found: list[Found], near: Candidates) -> Proposal:
    cosine = dict(zip(near.chunks.tolist(), near.scores.tolist(), strict=True))
    return Proposal(found, np.array([cosine[each.chunk] for each in found], dtype=np.float32))
