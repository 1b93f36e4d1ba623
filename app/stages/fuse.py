"""Fuse: several rankings to one, by ranks alone, since scores of different kinds can't be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.types import Candidates


def fuse(rankings: Sequence[Candidates], weights: Sequence[float], k: int) -> Candidates:
    """Every chunk that any of them has, by the weighted sum of 1 / (k + rank); equals in the order of the first."""
    chunks = np.concatenate([ranking.chunks for ranking in rankings])
    gains = [weight / (k + np.arange(1, len(ranking) + 1)) for ranking, weight in zip(rankings, weights, strict=True)]
    _, first, place = np.unique(chunks, return_index=True, return_inverse=True)
    totals = np.bincount(place, weights=np.concatenate(gains), minlength=len(first))
    order = np.lexsort((first, -totals))
    return Candidates(chunks[first[order]].astype(np.int64), totals[order].astype(np.float32))
