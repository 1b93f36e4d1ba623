"""Vectors in rows: whole, or rounded to a byte for each number."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.types import Vectors

Places = NDArray[np.intp]

AT_ONCE = 512
"""Rows copied together before they are compared: 512 times 384 floats stay in a core's cache."""
STEPS = 127
"""Of a byte, from zero to the largest number of a vector."""


class Table(Protocol):
    """Rows that are filled from the front; one that is filled is not changed any more."""

    rounding: float
    """By how much a number may be off, as a share of the largest one in its vector."""
    scan_share: float
    """From this share of the rows on, comparing all of them in place beats collecting those asked for."""

    def __init__(self, rows: int, dimensions: int) -> None: ...

    def __len__(self) -> int:
        """Rows that there is room for."""

    def __getitem__(self, rows: Places) -> Vectors:
        """The vectors, as far as they were kept."""

    def put(self, start: int, block: Vectors) -> None: ...

    def take_over(self, other: Table, rows: int) -> None:
        """Copy so many from the front of another table of the same kind."""

    def memory(self, rows: int) -> int:
        """Bytes that so many take."""

    def inner(self, rows: Places, query: Vectors) -> Vectors:
        """Inner products of the query with a few rows."""

    def scan(self, rows: int, query: Vectors) -> Vectors:
        """The same with all of the first so many."""


class Whole:
    rounding = 0.0
    scan_share = 0.3
    """.07 µs a row in place, .24 collected."""

    def __init__(self, rows: int, dimensions: int) -> None:
        self._numbers = np.empty((rows, dimensions), np.float32)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: Places) -> Vectors:
        return self._numbers[rows]

    def put(self, start: int, block: Vectors) -> None:
        self._numbers[start : start + len(block)] = block

    def take_over(self, other: Table, rows: int) -> None:
        assert isinstance(other, Whole)
        self._numbers[:rows] = other._numbers[:rows]

    def memory(self, rows: int) -> int:
        return self._numbers[:rows].nbytes

    def inner(self, rows: Places, query: Vectors) -> Vectors:
        return products(self._numbers[rows], query)

    def scan(self, rows: int, query: Vectors) -> Vectors:
        return products(self._numbers[:rows], query)


class Rounded:
    """Each vector with a scale of its own: inner products of unit vectors of text are off by .0006 in the mean."""

    rounding = 0.51 / STEPS
    scan_share = 0.8
    """.12 µs a row in place, .14 collected."""

    def __init__(self, rows: int, dimensions: int) -> None:
        self._numbers = np.empty((rows, dimensions), np.int8)
        self._scales = np.empty(rows, np.float32)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: Places) -> Vectors:
        return self._numbers[rows].astype(np.float32) * self._scales[rows, None]

    def put(self, start: int, block: Vectors) -> None:
        scales = np.abs(block).max(axis=1, initial=0) / STEPS
        numbers = np.divide(block, scales[:, None], out=np.zeros_like(block), where=scales[:, None] > 0)
        self._numbers[start : start + len(block)] = np.rint(numbers)
        self._scales[start : start + len(block)] = scales

    def take_over(self, other: Table, rows: int) -> None:
        assert isinstance(other, Rounded)
        self._numbers[:rows], self._scales[:rows] = other._numbers[:rows], other._scales[:rows]

    def memory(self, rows: int) -> int:
        return self._numbers[:rows].nbytes + self._scales[:rows].nbytes

    def inner(self, rows: Places, query: Vectors) -> Vectors:
        return products(self._numbers[rows].astype(np.float32), query) * self._scales[rows]

    def scan(self, rows: int, query: Vectors) -> Vectors:
        scores = np.empty(rows, np.float32)
        for start in range(0, rows, AT_ONCE):
            part = slice(start, min(start + AT_ONCE, rows))
            scores[part] = products(self._numbers[part].astype(np.float32), query)
        return scores * self._scales[:rows]


def similarities(table: Table, used: int, rows: Places, query: Vectors) -> Vectors:
    """Inner products of the query with some rows of a table of which so many are in use."""
    if len(rows) > table.scan_share * used:
        return table.scan(used, query)[rows]
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        scores[part] = table.inner(rows[part], query)
    return scores


def products(block: Vectors, query: Vectors) -> Vectors:
    """einsum and not `@`: OpenBLAS shares a product out to threads, six times slower here while other cores work."""
    scores: Vectors = np.einsum("ij,j->i", block, query)
    return scores
