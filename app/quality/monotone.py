"""Maps from scores to probabilities that never fall as the score rises, fitted to labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.quality.newton import minimum
from app.stages.calibrate import MOST_SHARE, Standing, probabilities
from app.types import Scale

Numbers = NDArray[np.float64]

FOLDS = 5
RIDGE = 1e-4
"""Keeps scores that part the labels without an error from an infinite slope."""
EDGE = 1e-4
"""No probability is nearer to 0 or 1."""
MOST_KNOTS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """One query's documents, best first: how they stand, and which of them are relevant."""

    standing: Standing
    relevant: Numbers

    @property
    def weights(self) -> Numbers:
        """A document counts as nDCG counts it: there are many that are far down, and few see them."""
        return np.asarray(1 / np.log2(np.arange(2, len(self.relevant) + 2)))


@dataclass(frozen=True, slots=True)
class Fit:
    """The map that predicts held-out labels best."""

    scale: Scale
    method: str
    losses: dict[str, float]
    """Log loss of each method on queries that it was not fitted to."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Documents of many queries, by how far they stand out."""

    scores: Numbers
    relevant: Numbers
    weights: Numbers


def fit(queries: Sequence[Labelled], seed: int) -> Fit:
    """Few labels suit the logistic curve, many show its faults: held-out queries decide."""
    folds = np.random.default_rng(seed).permutation(len(queries)) % min(FOLDS, len(queries))
    losses = {name: float(np.mean(list(_losses(method, queries, folds)))) for name, method in METHODS.items()}
    name = min(losses, key=losses.__getitem__)
    return Fit(_learned(METHODS[name], queries), name, losses)


def shares(queries: Sequence[Labelled]) -> tuple[float, float]:
    """How much of level and rival, taken off the scores, parts relevant documents from irrelevant ones best: by a
    logistic regression in which none of the three counts the wrong way."""
    rows = np.vstack([_against(each.standing) for each in queries])
    flat = _flat(queries, 0.0, 0.0)
    _, (own, *others) = _line(rows, flat.relevant, flat.weights)
    background, rival = (min(float(each / own), MOST_SHARE) if own > 0 else 0.0 for each in others)
    return background, rival


def pool(values: Numbers, weights: Numbers) -> list[int]:
    """How many neighbours belong together in the nearest rising sequence, by weighted squares: those out of order are
    pooled until none are left (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        total, size, count = value * weight, weight, 1
        while blocks and blocks[-1][0] * size >= total * blocks[-1][1]:
            before = blocks.pop()
            total, size, count = total + before[0], size + before[1], count + before[2]
        blocks.append((total, size, count))
    return [count for _, _, count in blocks]


def isotonic(points: Points) -> Scale:
    """The shares of relevant ones that fit best among all that rise with the score, joined at the steps' middles."""
    levels, place = np.unique(points.scores, return_inverse=True)
    weights = np.bincount(place, weights=points.weights).astype(float)
    found = np.bincount(place, weights=points.weights * points.relevant) / weights
    starts = np.cumsum([0, *pool(found, weights)[:-1]])
    sizes = np.add.reduceat(weights, starts)
    means = np.add.reduceat(found * weights, starts) / sizes
    middles = np.add.reduceat(levels * weights, starts) / sizes
    # The outer steps are as sure as their size allows: five relevant of five are not all.
    means = np.clip(means, 0.5 / (sizes[0] + 1), 1 - 0.5 / (sizes[-1] + 1))
    return _with_ends(middles, means, levels[0], levels[-1])


def logistic(points: Points) -> Scale:
    """A straight line in log-odds."""
    offset, (slope,) = _line(points.scores[:, None], points.relevant, points.weights)
    ends = np.array([points.scores.min(), points.scores.max()])
    if slope > 0:
        bound = np.log(1 / EDGE - 1)
        ends = np.clip(ends, (-bound - offset) / slope, (bound - offset) / slope)
    return _scale(ends, 1 / (1 + np.exp(-offset - slope * ends)))


def log_loss(expected: Numbers, relevant: Numbers) -> Numbers:
    return np.asarray(-np.log(np.where(relevant > 0, expected, 1 - expected)))


Method = Callable[[Points], Scale]

METHODS: dict[str, Method] = {"logistic": logistic, "isotonic": isotonic}


def _learned(method: Method, queries: Sequence[Labelled]) -> Scale:
    background, rival = shares(queries)
    return replace(method(_flat(queries, background, rival)), background=background, rival=rival)


def _losses(method: Method, queries: Sequence[Labelled], folds: NDArray[np.int64]) -> Iterator[float]:
    for fold in range(int(folds.max()) + 1):
        learned = _learned(method, [each for each, own in zip(queries, folds, strict=True) if own != fold])
        held = [each for each, own in zip(queries, folds, strict=True) if own == fold]
        losses = [log_loss(probabilities(learned, each.standing), each.relevant) for each in held]
        yield float(np.average(np.concatenate(losses), weights=np.concatenate([each.weights for each in held])))


def _flat(queries: Sequence[Labelled], background: float, rival: float) -> Points:
    return Points(
        np.concatenate([each.standing.above(background, rival) for each in queries]),
        np.concatenate([each.relevant for each in queries]),
        np.concatenate([each.weights for each in queries]),
    )


def _against(stands: Standing) -> Numbers:
    """What counts for each document: its score, and against it what others score."""
    return np.column_stack([stands.scores, np.full(len(stands.scores), -stands.level), -stands.rivals])


def _line(rows: Numbers, relevant: Numbers, weights: Numbers) -> tuple[float, Numbers]:
    """The log-odds' offset and slopes, none of which falls: a logistic regression."""
    means, spreads = rows.mean(axis=0), rows.std(axis=0)
    spreads[spreads == 0] = 1.0
    design = np.column_stack([np.ones(len(rows)), (rows - means) / spreads])
    start = np.zeros(design.shape[1])
    floor = np.array([-np.inf, *start[1:]])
    line = minimum(lambda given: _loss(design, relevant, weights / weights.sum(), given), start, floor)
    slopes = line[1:] / spreads
    return float(line[0] - slopes @ means), slopes


def _loss(design: Numbers, relevant: Numbers, weights: Numbers, line: Numbers) -> tuple[float, Numbers, Numbers]:
    """How surprising the labels are, with slope and curvature."""
    odds = design @ line
    expected = 0.5 + 0.5 * np.tanh(odds / 2)  # which no odds make overflow
    loss = weights @ (np.logaddexp(0, odds) - relevant * odds) + RIDGE / 2 * line @ line
    slope = design.T @ (weights * (expected - relevant)) + RIDGE * line
    curvature = (design.T * (weights * expected * (1 - expected))) @ design + RIDGE * np.eye(len(line))
    return float(loss), slope, curvature


def _with_ends(middles: Numbers, means: Numbers, lowest: float, highest: float) -> Scale:
    """From the first score to the last, so that the outer steps rise too: from half the odds, to double the odds."""
    odds = means / (1 - means)
    before, behind = int(lowest < middles[0]), int(highest > middles[-1])
    scores = np.concatenate([[lowest] * before, middles, [highest] * behind])
    odds = np.concatenate([[odds[0] / 2] * before, odds, [odds[-1] * 2] * behind])
    kept = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), MOST_KNOTS)).round().astype(int))
    return _scale(scores[kept], (odds / (1 + odds))[kept])


def _scale(scores: Numbers, relevance: Numbers) -> Scale:
    levels, places = np.unique(scores, return_index=True)
    return Scale(tuple(levels.tolist()), tuple(np.clip(relevance, EDGE, 1 - EDGE)[places].tolist()))
