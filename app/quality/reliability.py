"""How far probabilities of relevance can be believed, measured on queries that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.quality.monotone import Labelled
from app.quality.statistics import INTERVAL, ratios, share
from app.quality.types import Estimate
from app.stages.calibrate import probabilities
from app.types import Scale

Numbers = NDArray[np.float64]

BINS = 10
SHOWN = 10
"""Documents that a search shows, when nothing else is said."""
THRESHOLDS = (0.5, 0.7, 0.9)
DRAWS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """One query's documents, best first: what is expected of each, and what it is."""

    probabilities: Numbers
    relevant: Numbers
    held: int
    """Relevant documents that the collection holds; 0 says that nothing in it answers."""

    def first(self, amount: int) -> Expected:
        return Expected(self.probabilities[:amount], self.relevant[:amount], self.held)


@dataclass(frozen=True, slots=True)
class Bin:
    """Hits of like probability, and how many of them are relevant."""

    expected: float
    """In the mean."""
    seen: Estimate
    """The share of them that is relevant."""
    hits: int


@dataclass(frozen=True, slots=True)
class Errors:
    """How far expectation and truth are apart."""

    hits: int
    ece: Estimate
    """Expected calibration error: the mean distance in bins of equally many hits."""
    chance: float
    """The same of probabilities that are exactly right: so few hits tell no better."""
    brier: Estimate


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a search with this `min_relevance` is worth."""

    at: float
    precision: Estimate | None
    """Of what is shown; None where nothing is."""
    recall: Estimate | None
    """Relevant documents that are shown, of those that the collection holds."""
    answered: Estimate | None
    """Questions with an answer that are shown one."""
    refused: Estimate | None
    """Questions without an answer that are shown nothing; None where there are none."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """All that was measured of one map."""

    shown: Errors
    """Of the first ten documents."""
    first: Errors
    """Of the first one."""
    candidates: Errors
    """Of all of them, most of which are plainly irrelevant."""
    bins: tuple[Bin, ...]
    """Of the first ten documents."""
    thresholds: tuple[Threshold, ...]


def read_as_probabilities(scores: Numbers) -> Numbers:
    """What a reranker's own scores would say: themselves where they can be probabilities, log-odds otherwise."""
    can_be = scores.size and scores.min() >= 0 and scores.max() <= 1
    return scores if can_be else 0.5 + 0.5 * np.tanh(scores / 2)


def expected(scale: Scale, query: Labelled, held: int) -> Expected:
    return Expected(probabilities(scale, query.standing), query.relevant, held)


def reliability(queries: Sequence[Expected], seed: int) -> Reliability:
    shown = [each.first(SHOWN) for each in queries]
    return Reliability(
        errors(shown, seed),
        errors([each.first(1) for each in queries], seed),
        errors(queries, seed),
        tuple(_bins(*_flat(shown))),
        tuple(_thresholds(shown, seed)),
    )


def errors(queries: Sequence[Expected], seed: int) -> Errors:
    said, _ = _flat(queries)
    draw = np.random.default_rng(seed)
    truths = (draw.random(len(said)) < said for _ in range(DRAWS))  # one at a time: together they fill the memory
    chance = float(np.mean([calibration_error(said, truth.astype(float)) for truth in truths]))
    return Errors(len(said), _drawn(queries, calibration_error, seed), chance, _drawn(queries, brier, seed))


def calibration_error(said: Numbers, relevant: Numbers) -> float:
    """The mean distance between what is said and what is, over bins of equally many."""
    order = np.argsort(said, kind="stable")
    starts = [places[0] for places in _parted(len(order))]
    return float(np.abs(np.add.reduceat((said - relevant)[order], starts)).sum() / len(order))


def brier(said: Numbers, relevant: Numbers) -> float:
    return float(np.mean((said - relevant) ** 2))


def _bins(said: Numbers, relevant: Numbers) -> Iterator[Bin]:
    order = np.argsort(said, kind="stable")
    for places in (order[part] for part in _parted(len(order))):
        seen = share(float(relevant[places].sum()), len(places))
        assert seen is not None, "there is no bin without hits"
        yield Bin(float(said[places].mean()), seen, len(places))


def _parted(amount: int) -> list[NDArray[np.int64]]:
    return np.array_split(np.arange(amount), min(BINS, amount))


def _drawn(queries: Sequence[Expected], measure: Callable[[Numbers, Numbers], float], seed: int) -> Estimate:
    """With a 95 % interval by a bootstrap over queries, less what drawing some of them twice adds to the error."""
    draw, seen = np.random.default_rng(seed), measure(*_flat(queries))
    picks = (draw.integers(len(queries), size=len(queries)) for _ in range(DRAWS))
    drawn = np.array([measure(*_flat([queries[at] for at in pick])) for pick in picks])
    low, high = np.maximum(np.percentile(drawn, INTERVAL) - drawn.mean() + seen, 0.0)
    return Estimate(seen, float(low), float(high))


def _thresholds(queries: Sequence[Expected], seed: int) -> Iterator[Threshold]:
    for at in THRESHOLDS:
        rows = np.array([_row(query, at) for query in queries], float)
        answered, answerable, refused, unanswerable = rows[:, 4:].sum(axis=0).tolist()
        precision, recall = ratios(rows[:, 0:4:2], rows[:, 1:4:2], seed)
        yield Threshold(at, precision, recall, share(answered, answerable), share(refused, unanswerable))


def _row(query: Expected, at: float) -> list[float]:
    """For precision, recall, answered and refused: what counts, and of how many."""
    shown = query.probabilities >= at
    right = float(query.relevant[shown].sum())
    answers = query.held > 0
    return [
        right, shown.sum(),
        right, query.held,
        answers and right > 0, answers,
        not answers and not shown.any(), not answers,
    ]  # fmt: skip


def _flat(queries: Sequence[Expected]) -> tuple[Numbers, Numbers]:
    return np.concatenate([each.probabilities for each in queries]), np.concatenate([each.relevant for each in queries])
