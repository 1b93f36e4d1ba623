"""Vectors in memory, and which of them searches see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.stores.tables import Places, Table, Whole, similarities
from app.types import Candidates, Change, ChunkIds

Vectors = NDArray[np.float32]

TINY = 1e-12
"""The length of a vector that has none."""


@dataclass(frozen=True, slots=True)
class Living:
    """What a search sees. Replaced as a whole and never changed, so that nobody sees half of a change."""

    sequence: int
    chunks: ChunkIds
    """Living chunks, ascending."""
    rows: Places
    """Where the vector of each stands."""
    table: Table
    used: int
    """Rows of the table that were filled by then, of chunks that live and of others."""

    def __len__(self) -> int:
        return len(self.chunks)

    @property
    def nbytes(self) -> int:
        return self.table.memory(self.used) + self.chunks.nbytes + self.rows.nbytes

    def nearest(self, query: Vectors, k: int, allowed: ChunkIds | None = None) -> Candidates:
        """The k nearest, by comparing with all of them."""
        if allowed is None:
            return best(self.chunks, self._similarities(self.rows, query), k)
        at = np.searchsorted(self.chunks, allowed)[contains(self.chunks, allowed)]
        return best(self.chunks[at], self._similarities(self.rows[at], query), k)

    def _similarities(self, rows: Places, query: Vectors) -> Vectors:
        return similarities(self.table, self.used, rows, query)


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
    held, two hundred times what comparing the row costs. The price is 4 bytes a number, or one where they are rounded.
    """

    def __init__(self, dimensions: int, kind: type[Table] = Whole) -> None:
        self.dimensions = dimensions
        self._kind = kind
        self._table = kind(0, dimensions)
        self.living = Living(0, np.empty(0, np.int64), np.empty(0, np.intp), self._table, 0)

    def fill(self, sequence: int, room: int, blocks: Iterable[tuple[ChunkIds, Vectors]]) -> None:
        """Take in what was read, of no more chunks than there is to be room for."""
        self._table = self._kind(room, self.dimensions)
        found, used = [np.empty(0, np.int64)], 0
        for chunks, vectors in blocks:
            self._table.put(used, vectors)
            found.append(chunks)
            used += len(chunks)
        self._show(sequence, np.concatenate(found), np.arange(used), used)

    @property
    def nbytes(self) -> int:
        """Memory in use; room kept ahead is not, since the system gives pages when they are first written."""
        return self.living.nbytes

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
        self._place(block[new])
        sequence = max((change.sequence for change in fresh), default=self.living.sequence)
        return Step(sequence, chunks[new], block[new], gone[contains(self.living.chunks, gone)])

    def publish(self, step: Step) -> None:
        """Let searches see a step: one assignment, all of it or nothing."""
        old, used = self.living, self.living.used + len(step.added)
        kept = ~contains(step.removed, old.chunks)
        chunks = np.concatenate((old.chunks[kept], step.added))
        self._show(step.sequence, chunks, np.concatenate((old.rows[kept], np.arange(old.used, used))), used)

    def _show(self, sequence: int, chunks: ChunkIds, rows: Places, used: int) -> None:
        order = np.argsort(chunks, kind="stable")
        self.living = Living(sequence, chunks[order], rows[order], self._table, used)

    def _place(self, block: Vectors) -> None:
        """Copy vectors behind those that searches see; a step that never got there is overwritten by the next."""
        end = self.living.used + len(block)
        if end > len(self._table):
            self._grow(end)
        self._table.put(self.living.used, block)

    def _grow(self, needed: int) -> None:
        """Searches that began before keep the old table, so this stops nobody."""
        table = self._kind(max(needed, 2 * len(self._table)), self.dimensions)
        table.take_over(self._table, self.living.used)
        self._table = table


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
