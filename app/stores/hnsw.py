"""The nearest vectors by an HNSW graph (hnswlib), or exactly where that is no slower."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from threading import Lock
from time import perf_counter

import hnswlib
import numpy as np

from app.stores import hnsw_file
from app.stores.lock import SharedLock
from app.stores.tables import Rounded, Whole, products
from app.stores.vectors import Living, Rows, Step, Vectors, best, contains, shortened
from app.types import Candidates, Change, ChunkIds

FIRST_CAPACITY = 1024
SLICE_SECONDS = 0.003
"""How long a writer keeps searches out at a time."""
MARKS_AT_ONCE = 4096
"""A mark takes .17 µs."""
OVERFETCH = 1.5
"""Neighbours taken from the graph for each one wanted: those at the rim of a search are the ones it gets wrong."""
OVERFETCH_SHORT = 4.0
"""The same where the graph compares a part of each vector: at 128 of 384 numbers it finds 99 % of the best 100 so."""
WIDEN = 4
MARGIN, LEAST_MARGIN = 1.25, 10
"""By how much more is taken from rounded rows than is asked for: of 60, none of the best 50 was missing."""
READ_AT_ONCE = 8192
"""Vectors that are on their way from a file, or from the truth, into the rows."""

Truth = Callable[[ChunkIds], tuple[ChunkIds, Vectors]]
"""Those of these chunks that are still there, with their vectors."""


class HnswIndex:
    """A graph that finds, and rows that decide: a chunk is there when the rows call it living.

    The graph runs ahead of the rows when chunks are added and behind them when they go. Both happen in short slices,
    and the rows change in between by one assignment: that makes a set of changes visible as one.

    Two things save memory, and neither is seen in a score. The graph may compare the first numbers of the vectors
    alone: then it only proposes, and the rows say what is nearest. The rows may be rounded to bytes: then they only
    propose too, and what they find nearest is compared once more by the vectors of the truth.
    """

    def __init__(
        self,
        dimensions: int,
        m: int,
        ef_construction: int,
        ef: int,
        exact_below: int,
        threads: int = 1,
        graph_dimensions: int | None = None,
        truth: Truth | None = None,
        rounded: bool = False,
    ) -> None:
        """`truth` is needed where less is kept than whole vectors."""
        self.graph_dimensions = graph_dimensions or dimensions
        self._truth = truth
        self._ef = ef
        self._threads = threads or max(1, (os.cpu_count() or 1) // 4)
        self._exact_below = exact_below
        self._rows = Rows(dimensions, Rounded if rounded else Whole)
        self._graph = hnswlib.Index("ip", self.graph_dimensions)
        self._graph.init_index(FIRST_CAPACITY, M=m, ef_construction=ef_construction)
        self._unmarked = 0
        self._slice = self._least
        self._lock = SharedLock()
        self._writer = Lock()

    def restore(self, path: Path, sequence: int) -> None:
        """Take in what `save` wrote, while nothing else is in here. Only for files known to be whole, of an index with
        the same settings: hnswlib checks next to nothing.

        A graph of short vectors has the rest of them from the truth, where some chunks may be gone already: the log,
        which is replayed next, says so too.
        """
        file = hnsw_file.read(path, self.graph_dimensions)
        self._graph = hnswlib.Index("ip", self.graph_dimensions)
        self._graph.load_index(str(path))
        held = file.chunks[file.living]
        self._unmarked = len(held)
        self._rows.fill(sequence, len(held), self._whole(file))
        self._mark(np.setdiff1d(held, self._rows.living.chunks))

    @property
    def dimensions(self) -> int:
        return self._rows.dimensions

    @property
    def sequence(self) -> int:
        return self._rows.living.sequence

    @property
    def deleted(self) -> int:
        """Marked in the graph: it still walks over them."""
        return max(0, int(self._graph.element_count) - self._unmarked)

    def __len__(self) -> int:
        return len(self._rows.living)

    @property
    def living(self) -> Living:
        """What searches see at this moment."""
        return self._rows.living

    @property
    def ef(self) -> int:
        return self._ef

    def tune(self, ef: int) -> None:
        self._ef = ef

    @property
    def state(self) -> object:
        return self._rows.living

    def sample(self, most: int) -> Vectors:
        living = self._rows.living
        return living.table[living.rows[:: max(1, -(-len(living) // most))]]

    @property
    def nbytes(self) -> int:
        """An estimate: hnswlib does not tell. Upper layers hold 1/(m-1) of the vectors, a label takes 40 bytes."""
        m, count = int(self._graph.M), int(self._graph.element_count)
        lowest = 4 * (2 * m + 1) + 4 * self.graph_dimensions + 8
        return self._rows.nbytes + count * (lowest + 4 * (m + 1) // (m - 1) + 40)

    @property
    def file_size(self) -> int:
        """Of a snapshot, in bytes."""
        return int(self._graph.index_file_size())

    def apply(self, changes: Sequence[Change]) -> None:
        if not changes:  # as often as the end of the log is looked for
            return
        with self._writer:
            step = self._rows.stage(changes)
            try:
                self._link(step)
            except BaseException:
                self._mark(step.added)
                raise
            self._rows.publish(step)
            self._mark(step.removed)

    def search(self, vector: Vectors, k: int, allowed: ChunkIds | None = None) -> Candidates:
        found = self.search_graph(vector, k, allowed)
        return self.search_exact(vector, k, allowed) if found is None else found

    def search_graph(
        self, vector: Vectors, k: int, allowed: ChunkIds | None = None, ef: int | None = None
    ) -> Candidates | None:
        query, living, ef = self._rows.query(vector), self._rows.living, ef or self._ef
        wanted = len(living) if allowed is None else min(len(allowed), len(living))
        k = max(0, min(k, wanted))
        overfetch = OVERFETCH_SHORT if self._is_short else OVERFETCH
        reach = max(ef, ceil(overfetch * k * self._unmarked / max(wanted, 1)))
        while wanted * ef > self._exact_below * reach:
            found = self._by_graph(query, k, reach, allowed)
            if len(found) == k:
                return found
            if reach >= self._unmarked:
                break
            reach *= WIDEN
        return None

    def search_exact(self, vector: Vectors, k: int, allowed: ChunkIds | None = None) -> Candidates:
        return self._nearest(self._rows.living, self._rows.query(vector), k, allowed)

    def save(self, path: Path) -> int:
        """Searches go on, changes wait: hnswlib only reads here."""
        with self._writer:
            self._graph.save_index(str(path))
            expected, sequence = self.file_size, self.sequence
        # save_index reports neither a full disk nor a missing folder.
        if (written := os.path.getsize(path)) != expected:
            told = f"Only {written} of {expected} bytes of {path} could be written: is the disk full?"
            raise OSError(errno.ENOSPC, told)
        return sequence

    def _by_graph(self, query: Vectors, k: int, reach: int, allowed: ChunkIds | None) -> Candidates:
        """Rows and graph are read under one lock, since chunks are marked once no new search takes them for living."""
        with self._lock.shared():
            living = self._rows.living
            chunks, scores = self._neighbours(query, min(reach, self._unmarked))
        there = contains(living.chunks, chunks)
        if allowed is not None:
            there &= contains(allowed, chunks)
        if self._is_short:
            return self._nearest(living, query, k, np.sort(chunks[there]))
        return best(chunks[there], scores[there], k)

    def _nearest(self, living: Living, query: Vectors, k: int, allowed: ChunkIds | None) -> Candidates:
        """By the rows, and where these are rounded once more by the truth: of what it does not have, because that was
        added ahead or is gone, nothing is found, and more is taken instead."""
        if not living.table.rounding:
            return living.nearest(query, k, allowed)
        reach = ceil(MARGIN * k) + LEAST_MARGIN
        while True:
            near = living.nearest(query, reach, allowed)
            chunks, vectors = self._read(np.sort(near.chunks))
            if len(chunks) >= k or len(near) < reach:
                return best(chunks, products(vectors, query), k)
            reach *= WIDEN

    def _whole(self, file: hnsw_file.GraphFile) -> Iterator[tuple[ChunkIds, Vectors]]:
        """The vectors of a graph, from the truth where the graph has a part of them."""
        rows = np.flatnonzero(file.living)
        for start in range(0, len(rows), READ_AT_ONCE):
            part = rows[start : start + READ_AT_ONCE]
            chunks = file.chunks[part]
            yield self._read(np.sort(chunks)) if self._is_short else (chunks, file.vectors[part])

    def _read(self, chunks: ChunkIds) -> tuple[ChunkIds, Vectors]:
        assert self._truth is not None
        return self._truth(chunks)

    def _neighbours(self, query: Vectors, reach: int) -> tuple[ChunkIds, Vectors]:
        """hnswlib looks as hard as for the larger of its own ef and what is asked for: asking is all the effort."""
        try:
            labels, distances = self._graph.knn_query(self._short(query[None]), k=reach, num_threads=1)
        except RuntimeError:  # It found fewer than asked for.
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return labels[0].astype(np.int64), 1 - distances[0]

    def _link(self, step: Step) -> None:
        """Add to the graph, slice by slice. Not marked as deleted meanwhile: hnswlib links nothing to marked ones."""
        done = 0
        while done < len(step.added):
            part = slice(done, done + self._slice)
            with self._lock.exclusive():
                self._add(step.added[part], step.vectors[part])
            done = part.stop

    def _add(self, chunks: ChunkIds, vectors: Vectors) -> None:
        self._make_room(len(chunks))
        started = perf_counter()
        self._graph.add_items(self._short(vectors), chunks, num_threads=self._threads)
        self._unmarked += len(chunks)
        fitting = int(len(chunks) * SLICE_SECONDS / (perf_counter() - started))
        self._slice = max(self._least, min(fitting, 2 * self._slice))

    @property
    def _is_short(self) -> bool:
        return self.graph_dimensions < self.dimensions

    def _short(self, vectors: Vectors) -> Vectors:
        """As the graph has them."""
        return shortened(vectors, self.graph_dimensions)

    @property
    def _least(self) -> int:
        """hnswlib takes one thread for fewer."""
        return 4 * self._threads + 1 if self._threads > 1 else 1

    def _make_room(self, more: int) -> None:
        """Doubling is rare and short: 4 ms from 100,000 to 200,000 vectors of 384, since the system moves pages."""
        needed, capacity = int(self._graph.element_count) + more, int(self._graph.max_elements)
        if needed > capacity:
            self._graph.resize_index(max(needed, 2 * capacity))

    def _mark(self, chunks: ChunkIds) -> None:
        """Those that are not in the graph or marked already are passed over."""
        for start in range(0, len(chunks), MARKS_AT_ONCE):
            with self._lock.exclusive():
                for chunk in chunks[start : start + MARKS_AT_ONCE].tolist():
                    with suppress(RuntimeError):
                        self._graph.mark_deleted(chunk)
                        self._unmarked -= 1
