"""Vectors in memory, and which of them searches see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.types import Candidates, Change, ChunkIds

Vectors = NDArray[np.float32]

GATHER_ROWS = 512
"""Rows copied together before they are compared: 512 times 384 floats stay in a core's cache."""
TINY = 1e-12
"""The length of a vector that has none."""
SCAN_SHARE = 0.3
"""From this share on, comparing every row in place (.07 µs each) beats collecting those asked for (.24 µs)."""


@dataclass(frozen=True, slots=True)
class Living:
    """What a search sees. Replaced as a whole and never changed, so that nobody sees half of a change."""

    sequence: int
    chunks: ChunkIds
    """Living chunks, ascending."""
    rows: NDArray[np.intp]
    """Where the vector of each stands."""
    vectors: Vectors

    def __len__(self) -> int:
        return len(self.chunks)

    def nearest(self, query: Vectors, k: int, allowed: ChunkIds | None = None) -> Candidates:
        """The k nearest, by comparing with all of them."""
        if allowed is None:
            return best(self.chunks, similarities(self.vectors, self.rows, query), k)
        at = np.searchsorted(self.chunks, allowed)[contains(self.chunks, allowed)]
        return best(self.chunks[at], similarities(self.vectors, self.rows[at], query), k)


@dataclass(frozen=True, slots=True)
class Step:
    """Changes that become visible together."""

    sequence: int
    added: ChunkIds
    vectors: Vectors
    removed: ChunkIds


class Rows:
    """Vectors in order of arrival. One writer at a time; readers take what lives and need no lock.

    They stand beside those inside hnswlib because its `get_items` goes through Python floats: 18 µs a row with the GIL
    held, two hundred times what comparing the row costs. The price is 4 bytes a number.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._room = np.empty((0, dimensions), np.float32)
        self.living = Living(0, np.empty(0, np.int64), np.empty(0, np.intp), self._room)

    @classmethod
    def of(cls, sequence: int, chunks: ChunkIds, vectors: Vectors) -> Rows:
        """Rows that were read. The vectors are taken over, not copied: there may be gigabytes of them."""
        rows = cls(vectors.shape[1])
        rows._room = vectors
        rows.publish(Step(sequence, chunks, vectors, np.empty(0, np.int64)))
        return rows

    @property
    def nbytes(self) -> int:
        """Memory in use; room kept ahead is not, since the system gives pages when they are first written."""
        return self.living.vectors.nbytes + self.living.chunks.nbytes + self.living.rows.nbytes

    def query(self, vector: Vectors) -> Vectors:
        """The vector if it can be searched for."""
        query: Vectors = _stack([vector], self.dimensions)[0]
        return query

    def stage(self, changes: Sequence[Change]) -> Step:
        """What is new in these changes, with the vectors in place but not yet seen.

        Changes as old as the last are looked at: a rebuild comes in blocks that all bear the number of the log's end.
        """
        fresh = [change for change in changes if change.sequence >= self.living.sequence]
        added, removed = _outcome(fresh)
        chunks = np.fromiter(added, np.int64, len(added))
        gone = np.fromiter(sorted(removed), np.int64, len(removed))
        block = _stack(list(added.values()), self.dimensions)
        new = ~contains(self.living.chunks, chunks)
        sequence = max((change.sequence for change in fresh), default=self.living.sequence)
        return Step(sequence, chunks[new], self._place(block[new]), gone[contains(self.living.chunks, gone)])

    def publish(self, step: Step) -> None:
        """Let searches see a step: one assignment, all of it or nothing."""
        old, start = self.living, len(self.living.vectors)
        kept = ~contains(step.removed, old.chunks)
        chunks = np.concatenate((old.chunks[kept], step.added))
        rows = np.concatenate((old.rows[kept], np.arange(start, start + len(step.added))))
        order = np.argsort(chunks, kind="stable")
        self.living = Living(step.sequence, chunks[order], rows[order], self._room[: start + len(step.added)])

    def _place(self, block: Vectors) -> Vectors:
        """Copy vectors behind those that searches see; a step that never got there is overwritten by the next."""
        start = len(self.living.vectors)
        end = start + len(block)
        if end > len(self._room):
            self._grow(end)
        self._room[start:end] = block
        return self._room[start:end]

    def _grow(self, needed: int) -> None:
        """Searches that began before keep the old room, so this stops nobody."""
        room = np.empty((max(needed, 2 * len(self._room)), self.dimensions), np.float32)
        room[: len(self.living.vectors)] = self.living.vectors
        self._room = room


def best(chunks: ChunkIds, scores: Vectors, k: int) -> Candidates:
    """The k highest scores in order; among equals the older chunk comes first."""
    if 0 < k < len(scores):
        top = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        chunks, scores = chunks[top], scores[top]
    order = np.lexsort((chunks, -scores))[: max(k, 0)]
    return Candidates(chunks[order], scores[order])


def contains(ascending: ChunkIds, chunks: ChunkIds) -> NDArray[np.bool_]:
    """Which of the chunks are there."""
    if not len(ascending):
        return np.zeros(len(chunks), np.bool_)
    at = np.searchsorted(ascending, chunks)
    at[at == len(ascending)] = 0
    return np.equal(ascending[at], chunks)


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first numbers of each, at unit length again: where encoders trained for it (Matryoshka) say the most."""
    if dimensions is None or dimensions >= vectors.shape[1]:
        return vectors
    first = vectors[:, :dimensions]
    return np.asarray(first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), TINY), np.float32)


def similarities(vectors: Vectors, rows: NDArray[np.intp], query: Vectors) -> Vectors:
    """Inner products of the query with some rows."""
    if len(rows) > SCAN_SHARE * len(vectors):
        return _inner(vectors, query)[rows]
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), GATHER_ROWS):
        part = slice(start, start + GATHER_ROWS)
        scores[part] = _inner(vectors[rows[part]], query)
    return scores


def _inner(block: Vectors, query: Vectors) -> Vectors:
    """einsum and not `@`: OpenBLAS shares a product out to threads, six times slower here while other cores work."""
    scores: Vectors = np.einsum("ij,j->i", block, query)
    return scores


def _outcome(changes: Sequence[Change]) -> tuple[dict[int, Vectors], set[int]]:
    """What is left of changes in the end: a chunk that came and went leaves nothing, and no number comes back."""
    added: dict[int, Vectors] = {}
    removed: set[int] = set()
    for change in changes:
        if change.vector is None:
            added.pop(change.chunk, None)
            removed.add(change.chunk)
        elif change.chunk not in removed:
            added.setdefault(change.chunk, change.vector)
    return added, removed


def _stack(vectors: Sequence[Vectors], dimensions: int) -> Vectors:
    """hnswlib takes NaN without a word, and no search that meets it is right again."""
    for vector in vectors:
        if vector.shape != (dimensions,):
            raise ValueError(f"A vector of shape {vector.shape} does not fit an index of {dimensions} dimensions")
    block = np.array(vectors, np.float32).reshape(len(vectors), dimensions)
    if not np.isfinite(block).all():
        raise ValueError("A vector contains NaN or infinity")
    return block
