"""The weights of a blend, fitted to labels as training fits them: over whole candidate lists, and never negative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.quality.newton import minimum
from models.types import Blend

Numbers = NDArray[np.float64]

RIDGE = 1e-3
"""Keeps lists that can be ordered without a fault from infinite weights."""
LITTLE = 0.01
"""Of the weightiest score: a reranker with less of a say is no unit to measure the others by."""


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """One query's candidates: a row for each, with the reranker's score, the cosine, the lexical share, and what it has
    of the query token by token."""

    scores: Numbers
    relevant: NDArray[np.bool_]


def fit_blend(lists: Sequence[Listed], *, rerank: bool = True) -> Blend:
    """What explains best which of the candidates are relevant; without the reranker on request."""
    spreads = np.concatenate([each.scores - each.scores.mean(axis=0) for each in lists]).std(axis=0)
    used = (spreads > 0) & [rerank, True, True, True]
    weights = np.zeros(len(used))
    contests, ones = _contests(lists, used, spreads), np.ones(int(used.sum()))
    weights[used] = minimum(lambda given: _loss(contests, given), ones, np.zeros_like(ones))
    unit = np.divide(weights, spreads, out=np.zeros(len(used)), where=used)
    trusted = weights[0] > LITTLE * weights.max()
    return Blend(*(round(float(each), 4) for each in unit / (unit[0] if trusted else 1.0)))


def _contests(lists: Sequence[Listed], used: NDArray[np.bool_], spreads: Numbers) -> list[Numbers]:
    """For each relevant candidate how far the irrelevant ones are above it, in scores that all spread alike."""
    scaled = [(each.scores[:, used] / spreads[used], each.relevant) for each in lists]
    return [rows[~relevant] - rows[place] for rows, relevant in scaled for place in np.flatnonzero(relevant)]


def _loss(contests: Sequence[Numbers], weights: Numbers) -> tuple[float, Numbers, Numbers]:
    """How surprising it is that the relevant ones win, with slope and curvature."""
    size = len(weights)
    loss, slope, curvature = RIDGE * float(weights @ weights), 2 * RIDGE * weights, 2 * RIDGE * np.eye(size)
    for rows in contests:
        above = rows @ weights
        top = max(above.max(initial=0.0), 0.0)
        chances = np.exp(above - top)
        total = chances.sum() + np.exp(-top)
        chances /= total
        mean = chances @ rows
        loss += (np.log(total) + top) / len(contests)
        slope = slope + mean / len(contests)
        curvature = curvature + ((rows.T * chances) @ rows - np.outer(mean, mean)) / len(contests)
    return float(loss), slope, curvature
