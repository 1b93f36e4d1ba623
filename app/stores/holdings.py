"""What an index holds, chunk by chunk, to be held against the truth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import apsw
import numpy as np

from app.stores.hnsw_file import GraphFile
from app.stores.lexical import TantivyIndex
from app.stores.rows import rows, sparse_vector, to_json
from app.stores.sparse import InvertedIndex
from app.stores.tables import Places, Table
from app.stores.vectors import Living, shortened
from app.types import ChunkIds
from models.types import SparseVector, Vectors

BLOCK = 512
"""Chunks compared at once: a look at other work in between."""

ROUNDING = 1e-6
"""How much a number that is computed may be off, by machine: a share of the largest one in its vector."""

Advance = Callable[[int], object]
"""Told of every block; it may rest, and raises where the work is to end."""


class Holding(Protocol):
    """An index at one moment."""

    @property
    def chunks(self) -> ChunkIds:
        """As often as they are held."""

    def wrong(self, db: apsw.Connection, chunks: ChunkIds, advance: Advance) -> Iterator[int]:
        """Of these, those that are held as something else than the truth says."""


@dataclass(frozen=True, slots=True)
class HeldVectors:
    chunks: ChunkIds
    rows: Places
    """Where the vector of each stands."""
    vectors: Table | Vectors
    rounding: float = 0.0
    """By how much a number may be off, as a share of the largest one in its vector."""

    def wrong(self, db: apsw.Connection, chunks: ChunkIds, advance: Advance) -> Iterator[int]:
        order = np.argsort(self.chunks, kind="stable")
        for block in _blocks(chunks):
            at = order[np.searchsorted(self.chunks, block, sorter=order)]
            truth = _vectors(db, block)
            held = zip(block.tolist(), self.vectors[self.rows[at]], strict=True)
            yield from (chunk for chunk, has in held if chunk in truth and not self._is(has, truth[chunk]))
            advance(len(block))

    def _is(self, has: Vectors, truth: bytes) -> bool:
        """Whether this is the vector of the truth, as far as it was kept."""
        if has.nbytes == len(truth) and not self.rounding:
            return has.tobytes() == truth
        if has.nbytes > len(truth) or len(truth) % has.itemsize:
            return False
        (kept,) = shortened(np.frombuffer(truth, np.float32)[None], len(has))
        return bool(np.abs(has - kept).max() <= max(self.rounding, ROUNDING) * np.abs(kept).max())


@dataclass(frozen=True, slots=True)
class HeldWords:
    index: TantivyIndex

    @property
    def chunks(self) -> ChunkIds:
        return self.index.chunks

    def wrong(self, db: apsw.Connection, chunks: ChunkIds, advance: Advance) -> Iterator[int]:
        for block in _blocks(chunks):
            yield from (chunk for chunk, text in _texts(db, block) if not self.index.has_words(chunk, text))
            advance(len(block))


@dataclass(frozen=True, slots=True)
class HeldTerms:
    index: InvertedIndex

    @property
    def chunks(self) -> ChunkIds:
        return self.index.chunks

    def wrong(self, db: apsw.Connection, chunks: ChunkIds, advance: Advance) -> Iterator[int]:
        wanted = set(chunks.tolist())
        contents = (each for each in self.index.contents() if each[0] in wanted)
        while block := list(islice(contents, BLOCK)):
            truth = _terms(db, [chunk for chunk, _ in block])
            yield from (chunk for chunk, has in block if chunk in truth and not _same(has, truth[chunk]))
            advance(len(block))


def of_rows(living: Living) -> HeldVectors:
    """What searches compare with."""
    return HeldVectors(living.chunks, living.rows, living.table, living.table.rounding)


def of_graph(file: GraphFile) -> HeldVectors:
    """What the graph leads to."""
    return HeldVectors(file.chunks[file.living], np.flatnonzero(file.living), file.vectors)


def _blocks(chunks: ChunkIds) -> Iterator[ChunkIds]:
    return (chunks[start : start + BLOCK] for start in range(0, len(chunks), BLOCK))


def _named(chunks: Collection[int] | ChunkIds) -> tuple[str]:
    return (to_json([int(chunk) for chunk in chunks]),)


def _vectors(db: apsw.Connection, chunks: ChunkIds) -> dict[int, bytes]:
    """As bytes: what is damaged need not be a vector."""
    sql = "SELECT chunk, vector FROM vectors WHERE chunk IN (SELECT value FROM json_each(?))"
    return dict(rows(db, sql, _named(chunks)))


def _texts(db: apsw.Connection, chunks: ChunkIds) -> list[tuple[int, str]]:
    sql = "SELECT number, text FROM chunks WHERE number IN (SELECT value FROM json_each(?))"
    return [(chunk, text) for chunk, text in rows(db, sql, _named(chunks))]


def _terms(db: apsw.Connection, chunks: Collection[int]) -> dict[int, SparseVector]:
    sql = "SELECT chunk, vector FROM sparse_vectors WHERE chunk IN (SELECT value FROM json_each(?))"
    return {chunk: sparse_vector(raw) for chunk, raw in rows(db, sql, _named(chunks))}


def _same(one: SparseVector, other: SparseVector) -> bool:
    return np.array_equal(one.terms, other.terms) and np.array_equal(one.weights, other.weights)
