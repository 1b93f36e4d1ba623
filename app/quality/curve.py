"""Quality against the cost of reranking, and where more candidates stop paying."""

from __future__ import annotations

from collections.abc import Mapping

from app.quality.statistics import Table, estimates
from app.quality.types import Curve, Point

RULE = (
    "the fewest candidates whose nDCG@10 can't be told from the best depth's: the paired 95 % interval of the "
    "difference reaches 0"
)


Cost = tuple[float, float | None]
"""Tokens that are read for one query, and the milliseconds that they take."""


def draw(arm: str, quality: Mapping[int, Table], cost: Mapping[int, Cost], auto: Point, seed: int) -> Curve:
    """From nDCG@10 and the candidates' recall of every query (two columns), and what it costs, by depth."""
    points = tuple(point(depth, values, cost[depth], seed) for depth, values in quality.items())
    return Curve(arm, points, _knee(quality, seed), RULE, auto)


def point(candidates: float, values: Table, cost: Cost, seed: int) -> Point:
    ndcg, recall = estimates([values], seed)
    return Point(candidates, ndcg, recall, *cost)


def _knee(quality: Mapping[int, Table], seed: int) -> int:
    best = max(quality, key=lambda depth: float(quality[depth][:, 0].mean()))
    for depth in sorted(quality):
        (behind,) = estimates([quality[depth][:, :1] - quality[best][:, :1]], seed)
        if behind.high >= 0:
            return depth
    return best
