"""The plainest index: it keeps all vectors and compares with every one. What others must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.types import Candidates, Change, ChunkIds

Vectors = NDArray[np.float32]


class ExactIndex:
    """A dictionary. It shares no code with the indexes that are held against it."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._held: dict[int, Vectors] = {}
        self._sequence = 0

    @property
    def dimensions(self) -> int:
        return self._dimensions

    @property
    def sequence(self) -> int:
        return self._sequence

    @property
    def deleted(self) -> int:
        return 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        return 4 * self._dimensions * len(self._held)

    def apply(self, changes: Sequence[Change]) -> None:
        held, fresh = dict(self._held), [change for change in changes if change.sequence >= self._sequence]
        for change in fresh:
            if change.vector is None:
                held.pop(change.chunk, None)
            else:
                held.setdefault(change.chunk, self._checked(change.vector))
        self._held = held
        self._sequence = max([self._sequence, *(change.sequence for change in fresh)])

    def search(self, vector: Vectors, k: int, allowed: ChunkIds | None = None) -> Candidates:
        query, held = self._checked(vector), self._held
        chosen = held if allowed is None else {int(chunk): held[int(chunk)] for chunk in allowed if int(chunk) in held}
        ranked = sorted((-float(query @ other), chunk) for chunk, other in chosen.items())[: max(k, 0)]
        scores = np.array([-distance for distance, _ in ranked], np.float32)
        return Candidates(np.array([chunk for _, chunk in ranked], np.int64), scores)

    search_exact = search

    def search_graph(
        self, vector: Vectors, k: int, allowed: ChunkIds | None = None, ef: int | None = None
    ) -> Candidates | None:
        return None

    @property
    def ef(self) -> int:
        return 0

    def tune(self, ef: int) -> None:
        """There is nothing that more effort would find."""

    @property
    def state(self) -> object:
        return self._held

    def sample(self, most: int) -> Vectors:
        held = list(self._held.values())
        return np.array(held[:: max(1, -(-len(held) // most))], np.float32).reshape(-1, self._dimensions)

    def save(self, path: Path) -> int:
        with path.open("wb") as file:
            np.savez(file, chunks=np.array(list(self._held)), vectors=np.array(list(self._held.values())))
        return self._sequence

    def _checked(self, vector: Vectors) -> Vectors:
        if vector.shape != (self._dimensions,):
            raise ValueError(f"not {self._dimensions} dimensions")
        if not np.isfinite(vector).all():
            raise ValueError("NaN or infinity")
        return vector
