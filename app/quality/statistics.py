"""How far a mean over queries can be trusted. Everything takes strata, one table of values for each dataset, with a row
for each query and a column for each measure; the mean is that of the datasets' means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from app.quality.types import Difference, Estimate

Table = NDArray[np.float64]
Strata = Sequence[Table]

DRAWS = 10_000
BLOCK = 500
"""Draws at once: what they take of memory grows with the queries."""

INTERVAL = (2.5, 97.5)
NORMAL = 1.96
"""Standard deviations that such an interval reaches either way."""


def estimates(strata: Strata, seed: int) -> list[Estimate]:
    """Each measure's mean with its 95 % interval (percentile bootstrap over queries)."""
    drawn = _draw(strata, seed, _resampled)
    lows, highs = np.percentile(drawn, INTERVAL, axis=0)
    return [
        Estimate(float(mean), float(low), float(high))
        for mean, low, high in zip(_means(strata), lows, highs, strict=True)
    ]


def differences(names: Sequence[str], ours: Strata, theirs: Strata, seed: int) -> list[Difference]:
    """Ours less theirs on the same queries, with Holm's correction over all of these tests."""
    paired = [one - other for one, other in zip(ours, theirs, strict=True)]
    ps = chances(paired, seed)
    tests = zip(names, estimates(paired, seed), ps, holm(ps), strict=True)
    return [Difference(name, estimate, p, adjusted) for name, estimate, p, adjusted in tests]


def chances(paired: Strata, seed: int) -> list[float]:
    """How often signs thrown at random make a mean difference as large as the one that was seen, either way."""
    seen = np.abs(_means(paired))
    thrown = np.abs(_draw(paired, seed, _flipped))
    reached = (thrown >= seen - 1e-12).sum(axis=0)
    return [float(p) for p in (reached + 1) / (DRAWS + 1)]


def holm(ps: Sequence[float]) -> list[float]:
    """P-values of tests that are made together, so that one wrong finding among all of them stays as rare."""
    order = np.argsort(ps, kind="stable")
    raised = np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return [float(p) for p in adjusted]


def ratios(over: Table, under: Table, seed: int) -> list[Estimate | None]:
    """Sums over queries divided by sums over queries, by column, with 95 % intervals; None where that is by 0."""
    drawn = _draw([np.hstack([over, under])], seed, _resampled)
    above, below = np.split(drawn, 2, axis=1)
    return [
        _ratio(one, other, float(o.sum()), float(u.sum())) if u.any() else None
        for one, other, o, u in zip(above.T, below.T, over.T, under.T, strict=True)
    ]


def share(counted: float, of: float) -> Estimate | None:
    """With its 95 % interval by Wilson, which knows that twenty of twenty are not all; None of nothing."""
    return _wilson(counted / of, of) if of else None


def clustered_share(shares: Sequence[float], trials: int) -> Estimate:
    """The mean of queries' shares of so many trials each, with its 95 % interval by Wilson for as many independent
    trials as would spread as much: the trials of one query resemble each other. One query more, of which half failed,
    counts towards the spread, since rare bad queries are seldom among few. It covers 95 to 98 % where Wilson for all
    trials, and the bootstrap of few queries, cover as little as 66."""
    values = np.asarray(shares, float)
    mean, count = float(values.mean()), len(values)
    wider = np.append(values, 0.5)
    middle, spread = float(wider.mean()), float(wider.var(ddof=1))
    independent = count * middle * (1 - middle) / spread if spread else count * trials
    return _wilson(mean, min(max(independent, count), count * trials))


def mean_of(values: Sequence[float]) -> Estimate:
    """With its 95 % interval by the normal distribution: for many values."""
    table = np.asarray(values, float)
    middle, reach = float(table.mean()), NORMAL * float(table.std()) / len(table) ** 0.5
    return Estimate(middle, middle - reach, middle + reach)


def _wilson(mean: float, of: float) -> Estimate:
    spread = NORMAL**2 / of
    middle, reach = mean + spread / 2, NORMAL * (mean * (1 - mean) / of + spread / of / 4) ** 0.5
    return Estimate(mean, max((middle - reach) / (1 + spread), 0.0), min((middle + reach) / (1 + spread), 1.0))


def _ratio(above: Table, below: Table, over: float, under: float) -> Estimate:
    """Draws that have nothing to divide by say nothing."""
    low, high = np.percentile(above[below > 0] / below[below > 0], INTERVAL)
    return Estimate(over / under, float(low), float(high))


def _means(strata: Strata) -> Table:
    return np.asarray(np.mean([table.mean(axis=0) for table in strata], axis=0))


def _draw(strata: Strata, seed: int, weights: Callable[[np.random.Generator, int, int], Table]) -> Table:
    """Means under random weights of the queries, a row for each draw."""
    draw = np.random.default_rng(seed)
    sizes = [min(BLOCK, DRAWS - start) for start in range(0, DRAWS, BLOCK)]
    blocks = [[weights(draw, size, len(table)) @ table / len(table) for table in strata] for size in sizes]
    return np.concatenate([np.asarray(np.mean(block, axis=0), float) for block in blocks])


def _resampled(draw: np.random.Generator, draws: int, queries: int) -> Table:
    """How often each query is drawn when as many are drawn as there are."""
    drawn = draw.integers(queries, size=(draws, queries)) + queries * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * queries).reshape(draws, queries).astype(float)


def _flipped(draw: np.random.Generator, draws: int, queries: int) -> Table:
    return draw.integers(2, size=(draws, queries)).astype(float) * 2 - 1
