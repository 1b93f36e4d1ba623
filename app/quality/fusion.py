"""Reciprocal rank fusion: one order out of several, by ranks alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.types import Candidates

K = 60
"""How little the first ranks stand out; the value that everybody uses."""


def fuse(rankings: Sequence[Candidates]) -> Candidates:
    """Every chunk that any of them has; equals in the order of the first ranking."""
    chunks = np.concatenate([ranking.chunks for ranking in rankings])
    gains = np.concatenate([1.0 / (K + np.arange(1, len(ranking) + 1)) for ranking in rankings])
    _, first, place = np.unique(chunks, return_index=True, return_inverse=True)
    totals = np.bincount(place, weights=gains, minlength=len(first))
    order = np.lexsort((first, -totals))
    return Candidates(chunks[first[order]].astype(np.int64), totals[order].astype(np.float32))
