"""From ranked hits to an answer fit for a prompt: distinct → diverse → grouped → expanded → fitted → highlighted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TypeVar

import apsw
import numpy as np

from app.service.shelf import Shelf
from app.stages.diversify import distinct, diverse
from app.stages.expand import Stretch, merged
from app.stages.fit import fitting
from app.stages.group import grouped
from app.stages.highlight import sentences
from app.stores.sqlite import Database
from app.stores.surroundings import around, text_between, vectors_of
from app.telemetry import Stopwatch
from app.types import Context, Hit, Vector
from models.types import Vectors

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer shall look like."""

    distinct: bool = False
    """Without hits that say the same as a better one."""
    diversity: float = 0.0
    """0: by score alone; 1: as unlike each other as can be."""
    per_document: int | None = None
    """With it, hits are grouped by document, and top_k counts documents."""
    expand: int = 0
    """Chunks before and behind each hit that its context takes in."""
    max_tokens: int | None = None
    """Room for all texts together, in the encoder's tokens."""
    highlight: bool = False
    """Find the best sentence of each hit."""

    @property
    def looks_further(self) -> bool:
        """Whether hits beyond the best `top_k` may be shown."""
        return self.distinct or self.diversity > 0 or self.per_document is not None


PLAIN = Shape()


@dataclass(frozen=True, slots=True)
class Shown:
    """Hits in their final shape."""

    hits: list[Hit]
    left_out: int = 0
    """How many more there would be with more room."""


class Presenter:
    """Shapes answers."""

    def __init__(self, database: Database, threads: Executor) -> None:
        self._database = database
        self._threads = threads

    async def present(
        self, shelf: Shelf, shape: Shape, hits: Sequence[Hit], top_k: int, vector: Vector | None, watch: Stopwatch
    ) -> Shown:
        """As many hits as asked for, or as there is room for."""
        if shape == PLAIN:
            return Shown(list(hits[:top_k]))
        with watch.stage("present"):
            chosen = _chosen(await self._spread(shape, hits), shape, top_k)
            if shape.expand:
                chosen = await self._database.read(lambda db: _expanded(db, chosen, shape.expand))
            fitted = chosen if shape.max_tokens is None else await self._fitted(shelf, chosen, shape.max_tokens)
        left_out = len(chosen) - len(fitted)
        if shape.highlight and vector is not None and fitted:
            fitted = await self._highlighted(shelf, fitted, vector, watch)
        return Shown(fitted, left_out)

    async def _spread(self, shape: Shape, hits: Sequence[Hit]) -> list[Hit]:
        """Without repetition, and in another order where that is asked for."""
        if not hits or not (shape.distinct or shape.diversity):
            return list(hits)
        vectors = await self._database.read(lambda db: vectors_of(db, [hit.chunk for hit in hits]))
        if vectors is None:  # one was deleted this very moment: what is left is no worse for it
            return list(hits)
        return await self._in_thread(lambda: _spread(shape, hits, vectors))

    async def _fitted(self, shelf: Shelf, hits: list[Hit], room: int) -> list[Hit]:
        texts = [hit.context.text if hit.context else hit.text for hit in hits]
        tokens = await self._in_thread(lambda: shelf.embedder.encoder.tokenize(texts, "document"))
        return [hits[place] for place in fitting([each.total for each in tokens], room)]

    async def _highlighted(self, shelf: Shelf, hits: list[Hit], vector: Vector, watch: Stopwatch) -> list[Hit]:
        """Each with the sentence that is nearest to the query."""
        spans = [sentences(hit.text) for hit in hits]
        texts = [hit.text[start:end] for hit, own in zip(hits, spans, strict=True) for start, end in own]
        with watch.stage("highlight") as lap:
            vectors = await shelf.embedder.aside(texts, self._threads, lap) if texts else np.zeros((0, len(vector)))
        likeness = np.split(vectors @ vector, np.cumsum([len(own) for own in spans])[:-1])
        best = [own[int(np.argmax(each))] if own else None for own, each in zip(spans, likeness, strict=True)]
        return [
            replace(hit, highlight=(hit.start + span[0], hit.start + span[1])) if span else hit
            for hit, span in zip(hits, best, strict=True)
        ]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _spread(shape: Shape, hits: Sequence[Hit], vectors: Vectors) -> list[Hit]:
    if shape.distinct:
        kept = distinct(vectors)
        hits, vectors = [hits[place] for place in kept], vectors[kept]
    if shape.diversity:
        scores = np.array([hit.score for hit in hits], np.float32)
        return [hits[place] for place in diverse(scores, vectors, shape.diversity)]
    return list(hits)


def _chosen(hits: Sequence[Hit], shape: Shape, top_k: int) -> list[Hit]:
    if shape.per_document is None:
        return list(hits[:top_k])
    return [hits[place] for place in grouped([hit.document for hit in hits], top_k, shape.per_document)]


def _expanded(db: apsw.Connection, hits: Sequence[Hit], neighbours: int) -> list[Hit]:
    """Each with its context; hits whose contexts meet become the best of them."""
    found = [around(db, hit.chunk, neighbours) for hit in hits]
    stretches = [
        Stretch(str(there.version), there.start, there.end, [place]) for place, there in enumerate(found) if there
    ]
    return [_with_context(db, hits, stretch) for stretch in merged(stretches)]


def _with_context(db: apsw.Connection, hits: Sequence[Hit], stretch: Stretch) -> Hit:
    best, *others = (hits[place] for place in stretch.places)
    text = text_between(db, int(stretch.document), stretch.start, stretch.end)
    return replace(best, context=Context(text, stretch.start, stretch.end), merged=tuple(hit.chunk for hit in others))
