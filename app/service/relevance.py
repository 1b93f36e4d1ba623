"""Relevance: what each collection's labels taught about its scores, and whether that holds for a search."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import apsw
import numpy as np

from app.errors import Conflict, Fault, Invalid, NotFound
from app.service.shelf import Shelf
from app.stages.calibrate import probabilities, standing
from app.stores import calibrations as rows
from app.stores import collections
from app.stores.sqlite import Database
from app.types import Calibration, Fusion, Hit, Mode, Scale

DIGITS = 4
"""Of a probability that is shown."""


@dataclass(frozen=True, slots=True)
class Note:
    """A calibration in a few words."""

    mode: Mode
    rerank: bool
    advice: str
    trouble: str | None


class Relevance:
    """Keeps calibrations at hand: every search asks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[int, Mapping[Mode, Calibration]] = {}
        self._changing = asyncio.Lock()

    async def every(self, collection: int) -> Mapping[Mode, Calibration]:
        """Those of a collection, by its number; they may be of other models than it has now."""
        if collection not in self._known:
            async with self._changing:
                self._known[collection] = await self._database.read(lambda db: rows.every(db, collection))
        return self._known[collection]

    async def find(self, shelf: Shelf, mode: Mode, *, late: bool) -> Calibration | None:
        """The one that holds for searches in this mode, if there is one; without comparing tokens scores are others."""
        found = (await self.every(shelf.collection.number)).get(mode)
        return found if found and not trouble(found, shelf) and (late or not found.late) else None

    async def notes(self, collection: int, shelf: Shelf | None) -> list[Note]:
        """What there is to say of each; of a closed collection's models nothing is known."""
        every = (await self.every(collection)).values()
        return [Note(each.mode, each.rerank, each.advice, trouble(each, shelf) if shelf else None) for each in every]

    async def require(self, shelf: Shelf, mode: Mode, fusion: Fusion, *, rerank: bool, late: bool) -> None:
        """Refuse a search for probabilities that nobody knows, and say why."""
        found = (await self.every(shelf.collection.number)).get(mode)
        name = shelf.collection.name
        again = f"run `winnow calibrate DATASET --collection {name} --mode {mode}`"
        why = f"'{name}' has no calibration for {mode} searches: {again}" if found is None else trouble(found, shelf)
        if why is None and found and scale_of(found, fusion, rerank=rerank) is None:
            why = "the calibration is of another fusion: leave out fusion, or rerank"
        if why is None and found and found.late and not late:
            why = "the calibration is of scores with tokens compared: leave out late"
        if why:
            raise Invalid("Nobody knows how relevant these scores are.", [Fault("/min_relevance", why)])

    async def keep(self, shelf: Shelf, calibration: Calibration) -> Calibration:
        """In place of the one for that mode."""
        if why := trouble(calibration, shelf):
            raise Conflict(f"This calibration can't be used for '{shelf.collection.name}': {why}")
        number = shelf.collection.number

        def put(db: apsw.Connection) -> None:
            if not collections.exists(db, number):
                raise NotFound(f"Collection '{shelf.collection.name}' was dropped meanwhile.")
            rows.put(db, number, calibration)

        async with self._changing:
            await self._database.write(put)
            self._known[number] = await self._database.read(lambda db: rows.every(db, number))
        return self._known[number][calibration.mode]

    async def forget(self, shelf: Shelf) -> None:
        """Remove all of them."""
        number = shelf.collection.number
        if not await self.every(number):
            raise NotFound(f"Collection '{shelf.collection.name}' has no calibration.")
        async with self._changing:
            await self._database.write(lambda db: rows.remove(db, number))
            self._known[number] = {}


def trouble(calibration: Calibration, shelf: Shelf) -> str | None:
    """Why it does not hold for the collection's models, if it does not."""
    now = {"encoder": shelf.embedder.encoder.fingerprint, "reranker": shelf.ranker.reranker.fingerprint}
    other = [f"another {name}" for name, mark in now.items() if getattr(calibration, name) != mark]
    if calibration.sparse != sparse_of(shelf):
        other.append("another sparse encoder" if calibration.sparse else "no sparse encoder that it names")
    if calibration.late != shelf.collection.late:
        other.append("other vectors of tokens" if calibration.late else "no vectors of tokens")
    return f"it was made with {' and '.join(other)}: run `winnow calibrate` again" if other else None


def sparse_of(shelf: Shelf) -> str:
    """Fingerprint of the collection's sparse encoder; empty where it has none."""
    return shelf.weigher.encoder.fingerprint if shelf.weigher else ""


def scale_of(calibration: Calibration | None, fusion: Fusion, *, rerank: bool) -> Scale | None:
    """The map for a search's final scores, if there is one."""
    if calibration is None:
        return None
    if rerank:
        return calibration.reranked
    fused_alike = calibration.mode != "hybrid" or calibration.fusion == fusion or bool(calibration.late)
    return calibration.unreranked if fused_alike else None


def rated(hits: Sequence[Hit], scale: Scale | None) -> list[Hit]:
    """Hits with their probabilities of relevance, where these are known."""
    if scale is None or not hits:
        return list(hits)
    scores = np.array([hit.score for hit in hits])
    found = probabilities(scale, standing(scores, [hit.document for hit in hits])).round(DIGITS).tolist()
    return [replace(hit, relevance=each) for hit, each in zip(hits, found, strict=True)]
