"""What computing in 8 bits would cost a reranker, by the groups that were held out of its training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from models.catalog import open_reranker
from models.folder import PRICE_FILE
from models.training.groups import Group
from models.training.judge import DEPTH, Weights
from models.training.run import write_whole
from models.types import ModelError, ModelOptions, Precision, Reranker

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


def write_price(folder: Path, groups: Sequence[Group], weights: Weights, threads: int) -> str:
    """Puts the price beside a model's weights, by which a service decides; says what it is, or why there is none."""
    try:
        found = price(folder, groups, weights, threads)
    except ModelError as error:
        return f"What 8 bits cost was not measured: {error}"
    write_whole(folder / PRICE_FILE, json.dumps(asdict(found)) + "\n")
    return found.told()


def price(folder: Path, groups: Sequence[Group], weights: Weights, threads: int) -> Price:
    """As a service computes it on a CPU, on top of the first stage's weighted scores."""
    with TemporaryDirectory() as conversions:

        def gains(precision: Precision) -> Gains:
            options = ModelOptions("cpu", precision, threads, "openvino", Path(conversions))
            return _gains(open_reranker(str(folder), options), groups, weights)

        return compared(gains("int8"), gains("float32"))


def compared(rounded: Gains, exact: Gains) -> Price:
    """The mean difference of paired values, and its percentile bootstrap."""
    differences = rounded - exact
    rows = np.random.default_rng(0).integers(len(differences), size=(DRAWS, len(differences)))
    low, high = np.percentile(differences[rows].mean(axis=1), INTERVAL)
    return Price(f"nDCG@{DEPTH}", len(differences), float(differences.mean()), float(low), float(high))


def _gains(reranker: Reranker, groups: Sequence[Group], weights: Weights) -> Gains:
    """nDCG of each group, whose first passage is the one that answers; among equals it counts as the last."""
    ranks = []
    for group in groups:
        first = weights[0] * np.asarray(group.dense) + weights[1] * np.asarray(group.lexical)
        scores = reranker.score(reranker.tokenize(group.query, group.passages)) + first
        ranks.append(1 + int((scores[1:] >= scores[0]).sum()))
    return np.array([1 / np.log2(1 + rank) if rank <= DEPTH else 0.0 for rank in ranks])
