"""The chunks that share the weightiest terms with a query: an inverted index of sparse vectors, in memory.

By `python loadtest/sparse.py`, in CPU time of one core, for chunks of 120 terms:

                                          100,000 chunks    1,000,000
    memory: 4 bytes a posting                  51 MB           505 MB
    rebuilt from the truth                    3.2 s             33 s
    search: 6, 32, 130 terms          1.2, 3.5, 8.4 ms  11, 27, 58 ms
    scores of 50 chunks                       2.3 ms            16 ms
    64 more chunks                            2.5 ms           3.6 ms
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from app.stores.vectors import best
from app.types import Candidates, ChunkIds, Expansion
from models.types import Scores, SparseVector

LARGEST = 2**16
"""Chunks of a segment: as many as two bytes can tell apart, and so few that their scores stay in a core's cache."""

DEAD_SHARE = 0.25
"""A segment of which more is gone is written anew."""

FEW_SHARE = 0.02
"""Less of a segment than this is looked up chunk by chunk (.1 µs for each term) rather than added up with all others
(.01 µs for each posting, of which a chunk that shares six terms with the query has six)."""

Rows = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """Some chunks, term by term. Never changed."""

    chunks: ChunkIds
    """In order of arrival; rows are places in it."""
    order: NDArray[np.intp]
    """The rows by rising chunk."""
    terms: NDArray[np.int32]
    """Those that any chunk has, rising."""
    edges: NDArray[np.int64]
    """Where each term's postings begin, and the last one's end."""
    rows: Rows
    """Of each posting, rising within a term."""
    weights: NDArray[np.float16]
    """Three digits, as they are in the truth."""

    @property
    def nbytes(self) -> int:
        arrays = self.chunks, self.order, self.terms, self.edges, self.rows, self.weights
        return sum(array.nbytes for array in arrays)

    def find(self, chunks: ChunkIds) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The rows of chunks, and which of them are there at all."""
        at = np.searchsorted(self.chunks, chunks, sorter=self.order)
        rows = self.order[np.minimum(at, len(self.order) - 1)]
        return rows, self.chunks[rows] == chunks

    def near(self, ascending: ChunkIds) -> ChunkIds:
        """Of some chunks, those between the first and the last one that it has."""
        first, last = self.chunks[self.order[[0, -1]]]
        return ascending[slice(*np.searchsorted(ascending, (first, last + 1)))]

    def postings(self, query: SparseVector) -> Iterator[tuple[Rows, Scores]]:
        """Of each of the query's terms, the rows that have it and what they gain by it."""
        if not len(self.terms):
            return
        at = np.minimum(np.searchsorted(self.terms, query.terms), len(self.terms) - 1)
        there = self.terms[at] == query.terms
        for place, weight in zip(at[there].tolist(), query.weights[there], strict=True):
            part = slice(self.edges[place], self.edges[place + 1])
            yield self.rows[part], weight * self.weights[part]

    def contents(self) -> Iterator[SparseVector]:
        """What each chunk was added with, row by row."""
        order = np.argsort(self.rows, kind="stable")
        terms, weights = np.repeat(self.terms, np.diff(self.edges))[order], self.weights[order].astype(np.float32)
        ends = np.cumsum(np.bincount(self.rows, minlength=len(self.chunks)))
        for begin, end in pairwise((0, *ends.tolist())):
            yield SparseVector(terms[begin:end], weights[begin:end])

    def score(self, query: SparseVector) -> Scores:
        """Of all rows."""
        scores = np.zeros(len(self.chunks), np.float32)
        for rows, gains in self.postings(query):
            np.add.at(scores, rows.astype(np.intp), gains)  # with narrower numbers for places it takes twice as long
        return scores

    def score_rows(self, query: SparseVector, wanted: NDArray[np.intp]) -> Scores:
        """Of some rows."""
        scores, sought = np.zeros(len(wanted), np.float32), wanted.astype(np.uint16)
        for rows, gains in self.postings(query):
            at = np.minimum(np.searchsorted(rows, sought), len(rows) - 1)
            scores += np.where(rows[at] == sought, gains[at], np.float32(0))
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A segment, and which of its chunks are still there."""

    segment: _Segment
    living: NDArray[np.bool_]
    count: int

    def without(self, chunks: ChunkIds) -> _Part:
        rows, there = self.segment.find(chunks)
        if not there.any():
            return self
        living = self.living.copy()
        living[rows[there]] = False
        return _Part(self.segment, living, int(living.sum()))

    def holds(self, chunks: ChunkIds) -> NDArray[np.bool_]:
        rows, there = self.segment.find(chunks)
        return there & self.living[rows]

    def search(self, query: SparseVector, k: int, allowed: ChunkIds | None) -> Candidates:
        if allowed is None:
            return self._best(query, k, self.living)
        rows, there = self.segment.find(self.segment.near(allowed))
        rows = rows[there & self.living[rows]]
        if len(rows) <= FEW_SHARE * len(self.living):
            scores = self.segment.score_rows(query, rows)
            return best(self.segment.chunks[rows][scores > 0], scores[scores > 0], k)
        wanted = np.zeros(len(self.living), np.bool_)
        wanted[rows] = True
        return self._best(query, k, wanted)

    def _best(self, query: SparseVector, k: int, wanted: NDArray[np.bool_]) -> Candidates:
        scores = self.segment.score(query)
        found = np.flatnonzero((scores > 0) & wanted)  # many zeros would make finding the best slow
        return best(self.segment.chunks[found], scores[found], k)


@dataclass(frozen=True, slots=True, eq=False)
class _Living:
    """What a search sees. Replaced as a whole and never changed, so that nobody sees half of a change."""

    sequence: int
    parts: tuple[_Part, ...]


class InvertedIndex:
    """Terms with the chunks that have them, in segments that are merged as they grow.

    One writer at a time; readers take what lives and need no lock. A new chunk becomes part of a small segment, and two
    neighbours become one when they are of like size: each posting is copied once for each doubling.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self._living = _Living(0, ())
        self._largest = largest
        self._writer = Lock()

    @property
    def sequence(self) -> int:
        return self._living.sequence

    @property
    def nbytes(self) -> int:
        return sum(part.segment.nbytes + part.living.nbytes for part in self._living.parts)

    def __len__(self) -> int:
        return sum(part.count for part in self._living.parts)

    def contents(self) -> Iterator[tuple[int, SparseVector]]:
        """All living chunks, with what each was added with."""
        for part in self._living.parts:
            held = zip(part.segment.chunks.tolist(), part.segment.contents(), part.living.tolist(), strict=True)
            yield from ((chunk, vector) for chunk, vector, lives in held if lives)

    @property
    def chunks(self) -> ChunkIds:
        """All living ones, in no order."""
        return np.concatenate(
            [np.empty(0, np.int64), *(part.segment.chunks[part.living] for part in self._living.parts)]
        )

    def apply(self, changes: Sequence[Expansion]) -> None:
        """Changes as old as the last are looked at: a rebuild comes in blocks that bear the number of the log's end."""
        with self._writer:
            old = self._living
            fresh = [change for change in changes if change.sequence >= old.sequence]
            last = {change.chunk: change.vector for change in fresh}
            gone = np.array([chunk for chunk, vector in last.items() if vector is None], np.int64)
            parts = [part.without(gone) for part in old.parts] if len(gone) else list(old.parts)
            new = _new(
                {chunk: vector for chunk, vector in last.items() if vector is not None}, old.parts, self._largest
            )
            sequence = max((change.sequence for change in fresh), default=old.sequence)
            self._living = _Living(sequence, tuple(_settled([*parts, *new], self._largest)))

    def search(self, vector: SparseVector, k: int, allowed: ChunkIds | None = None) -> Candidates:
        found = [part.search(vector, k, allowed) for part in self._living.parts]
        chunks = np.concatenate([np.empty(0, np.int64), *(each.chunks for each in found)])
        return best(chunks, np.concatenate([np.empty(0, np.float32), *(each.scores for each in found)]), k)

    def scores(self, vector: SparseVector, chunks: ChunkIds) -> Scores:
        """What search would say of these chunks, in their order; those that share no term with it are 0."""
        scores = np.zeros(len(chunks), np.float32)
        for part in self._living.parts:
            rows, there = part.segment.find(chunks)
            there &= part.living[rows]
            scores[there] = part.segment.score_rows(vector, rows[there])
        return scores


def _new(vectors: dict[int, SparseVector], parts: Sequence[_Part], largest: int) -> Iterator[_Part]:
    """Segments of the chunks that are not there yet."""
    chunks = np.fromiter(vectors, np.int64, len(vectors))
    chunks = chunks[~np.any([part.holds(chunks) for part in parts], axis=0)] if parts else chunks
    for start in range(0, len(chunks), largest):
        yield _whole(_segment(chunks[start : start + largest], vectors))


def _whole(segment: _Segment) -> _Part:
    return _Part(segment, np.ones(len(segment.chunks), np.bool_), len(segment.chunks))


def _segment(chunks: ChunkIds, vectors: dict[int, SparseVector]) -> _Segment:
    held = [vectors[chunk] for chunk in chunks.tolist()]
    terms = np.concatenate([vector.terms for vector in held])
    rows = np.repeat(np.arange(len(held), dtype=np.uint16), [len(vector) for vector in held])
    weights = np.concatenate([vector.weights for vector in held]).astype(np.float16)
    order = np.argsort(terms, kind="stable")
    distinct, starts = np.unique(terms[order], return_index=True)
    edges = np.append(starts, len(terms))
    return _Segment(chunks, np.argsort(chunks), distinct, edges, rows[order], weights[order])


def _settled(parts: Sequence[_Part], largest: int) -> list[_Part]:
    """The same chunks in fewer segments, where it is time for that."""
    kept: list[_Part] = []
    for part in parts:
        if part.count:
            kept.append(_whole(_pruned(part)) if part.count < (1 - DEAD_SHARE) * len(part.living) else part)
        while len(kept) > 1 and _belong_together(kept[-2], kept[-1], largest):
            newer, older = kept.pop(), kept.pop()
            kept.append(_whole(_joined(_pruned(older), _pruned(newer))))
    return kept


def _belong_together(older: _Part, newer: _Part, largest: int) -> bool:
    return older.count <= 2 * newer.count and older.count + newer.count <= largest


def _pruned(part: _Part) -> _Segment:
    """What lives of a segment."""
    held = part.segment
    if part.count == len(part.living):
        return held
    kept = part.living[held.rows]
    edges = np.append(0, np.cumsum(kept))[held.edges]
    used = np.diff(edges) > 0
    renumbered = (np.cumsum(part.living) - 1).astype(np.uint16)
    chunks = held.chunks[part.living]
    terms, edges = held.terms[used], np.append(edges[:-1][used], edges[-1])
    return _Segment(chunks, np.argsort(chunks), terms, edges, renumbered[held.rows[kept]], held.weights[kept])


def _joined(older: _Segment, newer: _Segment) -> _Segment:
    """Both as one: every posting goes straight to its place, without sorting."""
    terms = np.union1d(older.terms, newer.terms)
    counts = np.zeros((2, len(terms)), np.int64)
    for side, held in enumerate((older, newer)):
        counts[side, np.searchsorted(terms, held.terms)] = np.diff(held.edges)
    edges = np.append(0, np.cumsum(counts.sum(axis=0)))
    rows, weights = np.empty(edges[-1], np.uint16), np.empty(edges[-1], np.float16)
    for held, starts, first in ((older, edges[:-1], 0), (newer, edges[:-1] + counts[0], len(older.chunks))):
        shifts = starts[np.searchsorted(terms, held.terms)] - held.edges[:-1]
        places = np.arange(len(held.rows)) + np.repeat(shifts, np.diff(held.edges))
        rows[places], weights[places] = held.rows + np.uint16(first), held.weights
    chunks = np.concatenate([older.chunks, newer.chunks])
    return _Segment(chunks, np.argsort(chunks), terms, edges, rows, weights)
