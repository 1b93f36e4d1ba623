from __future__ import annotations

import numpy as np

from app.quality.curve import draw, point
from app.quality.statistics import Table

BASIC = np.random.default_rng(3).uniform(0.3, 0.7, 200)
NOISE = np.random.default_rng(4).normal(0, 0.05, (4, 200))


def knee(*gains: float) -> int:
    """Where the knee is when the depths 10, 20, 50 and 100 are so much better than the first."""
    quality: dict[int, Table] = {
        depth: np.column_stack([BASIC + gain + noise, BASIC])
        for depth, gain, noise in zip((10, 20, 50, 100), gains, NOISE, strict=True)
    }
    cost = {depth: (100.0 * depth, None) for depth in quality}
    return draw("dense+blend", quality, cost, point(15.0, quality[10], (1500.0, None), 0), 0).knee


def test_the_knee_is_where_more_candidates_gain_nothing_that_can_be_told_from_chance() -> None:
    assert knee(0.0, 0.1, 0.1, 0.1) == 20
    assert knee(0.0, 0.1, 0.15, 0.2) == 100
    assert knee(0.0, 0.0, 0.0, 0.0) == 10


def test_a_curve_that_falls_again_has_its_knee_before_that() -> None:
    assert knee(0.0, 0.1, 0.05, 0.0) == 20


def test_a_point_has_quality_recall_and_cost() -> None:
    table = np.array([[1.0, 0.5], [0.0, 0.5]])
    auto = point(12.5, table, (110.0, 6.0), 0)
    curve = draw("fused+blend", {10: table, 20: table}, {10: (90.0, 5.0), 20: (180.0, 10.0)}, auto, 0)
    assert (curve.auto.candidates, curve.auto.ndcg.mean, curve.auto.milliseconds) == (12.5, 0.5, 6.0)
    first, second = curve.points
    assert (first.candidates, first.ndcg.mean, first.recall.mean) == (10, 0.5, 0.5)
    assert (first.tokens, first.milliseconds, second.tokens, second.milliseconds) == (90.0, 5.0, 180.0, 10.0)
    assert "nDCG@10" in curve.rule
