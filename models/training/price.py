"""What computing in 8 bits would cost a reranker, by the groups that were held out of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.catalog import open_reranker
from models.training.groups import Group
from models.training.judge import DEPTH, Weights, gains
from models.types import ModelOptions, Precision, Reranker

DRAWS = 10_000
INTERVAL = (2.5, 97.5)

Gains = NDArray[np.float64]
"""Of each group, what its order is worth."""


@dataclass(frozen=True, slots=True)
class Price:
    """How far 8 bits change a measure, with the interval that holds in 19 of 20 draws of queries."""

    measure: str
    queries: int
    difference: float
    low: float
    high: float

    def told(self) -> str:
        return f"8 bits change {self.measure} by {self.difference:+.4f} (95 % {self.low:+.4f} to {self.high:+.4f})."


def price(folder: Path, groups: Sequence[Group], weights: Weights, options: ModelOptions) -> Price:
    """As a service computes it on a CPU, on top of the first stage's weighted scores."""

    def computed(precision: Precision) -> Gains:
        return _gains(open_reranker(str(folder), replace(options, precision=precision)), groups, weights)

    return compared(computed("int8"), computed("float32"))


def compared(rounded: Gains, exact: Gains) -> Price:
    """The mean difference of paired values, and its percentile bootstrap."""
    differences = rounded - exact
    draw = np.random.default_rng(0)
    means = [differences[draw.integers(len(differences), size=len(differences))].mean() for _ in range(DRAWS)]
    low, high = np.percentile(means, INTERVAL)
    return Price(f"nDCG@{DEPTH}", len(differences), float(differences.mean()), float(low), float(high))


def _gains(reranker: Reranker, groups: Sequence[Group], weights: Weights) -> Gains:
    """nDCG of each group, whose first passage is the one that answers; among equals it counts as the last."""
    ranks = []
    for group in groups:
        first = weights[0] * np.asarray(group.dense) + weights[1] * np.asarray(group.lexical)
        scores = reranker.score(reranker.tokenize(group.query, group.passages)) + first
        ranks.append(1 + int((scores[1:] >= scores[0]).sum()))
    return gains(ranks)
