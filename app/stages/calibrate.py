"""Calibrate: final scores to probabilities of relevance, by what labels taught."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.types import Scale

LEVEL = 10
"""A search must look at so many candidates to know its level."""


def level(scores: NDArray[np.float64]) -> float:
    """What its best candidates score in the mean: some queries have high scores all over."""
    return float(np.sort(scores)[-LEVEL:].mean())


def probabilities(scale: Scale, scores: NDArray[np.float64], own_level: float) -> NDArray[np.float64]:
    """In log-odds straight from knot to knot, and flat beyond the scores that anybody labelled."""
    known = np.asarray(scale.relevance)
    odds = np.interp(scores - scale.background * own_level, scale.scores, np.log(known / (1 - known)))
    return np.asarray(1 / (1 + np.exp(-odds)))
