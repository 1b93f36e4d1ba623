"""Maps from scores to probabilities that never fall as the score rises, fitted to labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.stages.calibrate import probabilities
from app.types import Scale

Numbers = NDArray[np.float64]

FOLDS = 5
STEPS = 50
"""Of Newton's method, which needs about ten."""
RIDGE = 1e-6
"""Keeps scores that part the labels without an error from an infinite slope."""
EDGE = 1e-4
"""No probability is nearer to 0 or 1."""
MOST_KNOTS = 500
BACKGROUNDS = (0.0, 0.5, 0.75, 1.0, 1.25)
"""Shares of a query's level that are tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Scores of one query's candidates, and which of them are relevant."""

    scores: Numbers
    relevant: Numbers
    level: float = 0.0
    """The query's own, by all of its candidates."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The map that predicts held-out labels best."""

    scale: Scale
    method: str
    losses: dict[str, float]
    """Log loss of each method on queries that it was not fitted to."""


def fit(queries: Sequence[Labelled], seed: int) -> Fit:
    """Few labels suit the logistic curve, many show its faults, and models differ in how far scores of two queries can
    be compared: held-out queries decide."""
    folds = np.random.default_rng(seed).permutation(len(queries)) % min(FOLDS, len(queries))
    losses = {
        (name, share): float(np.mean(list(_losses(method, queries, share, folds))))
        for name, method in METHODS.items()
        for share in BACKGROUNDS
    }
    name, share = min(losses, key=losses.__getitem__)
    scale = replace(METHODS[name](*_flat(queries, share)), background=share)
    return Fit(scale, name, {f"{name}, background {share:g}": loss for (name, share), loss in losses.items()})


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


def isotonic(scores: Numbers, relevant: Numbers) -> Scale:
    """The shares of relevant ones that fit best among all that rise with the score, joined at the steps' middles."""
    levels, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(float)
    shares = np.bincount(place, weights=relevant) / weights
    starts = np.cumsum([0, *pool(shares, weights)[:-1]])
    sizes = np.add.reduceat(weights, starts)
    means = np.add.reduceat(shares * weights, starts) / sizes
    middles = np.add.reduceat(levels * weights, starts) / sizes
    # The outer steps are as sure as their size allows: five relevant of five are not all.
    means = np.clip(means, 0.5 / (sizes[0] + 1), 1 - 0.5 / (sizes[-1] + 1))
    return _with_ends(middles, means, levels[0], levels[-1])


def logistic(scores: Numbers, relevant: Numbers) -> Scale:
    """A straight line in log-odds, its targets drawn in a little as Platt has it."""
    mean, spread = scores.mean(), scores.std() or 1.0
    hits, misses = relevant.sum(), len(relevant) - relevant.sum()
    targets = np.where(relevant > 0, (hits + 1) / (hits + 2), 1 / (misses + 2))
    offset, slope = _newton(np.column_stack([np.ones_like(scores), (scores - mean) / spread]), targets)
    ends = np.array([scores.min(), max(scores.max(), scores.min() + spread)])
    if slope <= 0:
        return _scale(ends, np.full(2, relevant.mean()))
    bound = np.log(1 / EDGE - 1)
    ends = np.clip(ends, *(mean + (np.array([-bound, bound]) - offset) * spread / slope))
    return _scale(ends, 1 / (1 + np.exp(-offset - slope * (ends - mean) / spread)))


def log_loss(expected: Numbers, relevant: Numbers) -> Numbers:
    return np.asarray(-np.log(np.where(relevant > 0, expected, 1 - expected)))


Method = Callable[[Numbers, Numbers], Scale]

METHODS: dict[str, Method] = {"logistic": logistic, "isotonic": isotonic}


def _newton(design: Numbers, targets: Numbers) -> Numbers:
    share = np.clip(targets.mean(), EDGE, 1 - EDGE)
    line = np.array([np.log(share / (1 - share)), 0.0])
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-np.clip(design @ line, -30, 30)))
        curvature = (design * (expected * (1 - expected))[:, None]).T @ design + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (targets - expected) - RIDGE * line)
        line = line + step * min(1.0, 2.0 / max(np.abs(step).max(), EDGE))
    return line


def _losses(method: Method, queries: Sequence[Labelled], share: float, folds: NDArray[np.int64]) -> Iterator[float]:
    for fold in range(int(folds.max()) + 1):
        learned = method(*_flat([each for each, own in zip(queries, folds, strict=True) if own != fold], share))
        scores, relevant = _flat([each for each, own in zip(queries, folds, strict=True) if own == fold], share)
        yield float(log_loss(probabilities(learned, scores, 0.0), relevant).mean())


def _flat(queries: Sequence[Labelled], share: float) -> tuple[Numbers, Numbers]:
    """Scores above so much of each query's level, and which of them are relevant."""
    scores = np.concatenate([each.scores - share * each.level for each in queries])
    return scores, np.concatenate([each.relevant for each in queries])


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
