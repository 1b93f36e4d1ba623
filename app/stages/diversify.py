"""Diversify: leave out what says the same, and let hits say different things."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.types import Scores, Vectors

ALIKE = 0.97
"""Cosine from which on two chunks say the same: the same text in other words, or with another header."""


def distinct(vectors: Vectors) -> list[int]:
    """Places, best first, without those that say the same as one before them."""
    kept: list[int] = []
    for place, vector in enumerate(vectors):
        if not kept or float((vectors[kept] @ vector).max()) < ALIKE:
            kept.append(place)
    return kept


def diverse(scores: Scores, vectors: Vectors, diversity: float) -> list[int]:
    """Places by maximal marginal relevance: each next one is good, and unlike those before it.

    Scores are of any range, so they count by where they lie between the worst and the best.
    """
    worth = (1 - diversity) * _spread(scores)
    likeness = np.zeros(len(scores), np.float32)
    order: list[int] = []
    left = np.ones(len(scores), bool)
    for _ in range(len(scores)):
        chosen = int(np.argmax(np.where(left, worth - diversity * likeness, -np.inf)))
        order.append(chosen)
        left[chosen] = False
        likeness = np.maximum(likeness, vectors @ vectors[chosen])
    return order


def _spread(scores: Scores) -> NDArray[np.float32]:
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)
    return np.asarray((scores - low) / (high - low), np.float32) if high > low else np.ones(len(scores), np.float32)
