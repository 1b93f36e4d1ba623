"""Quality against the cost of reranking, and where more candidates stop paying."""

from __future__ import annotations

from collections.abc import Mapping

from app.quality.statistics import Table, estimates
from app.quality.types import Curve, Point

RULE = (
    "the fewest candidates whose nDCG@10 can't be told from the best depth's: the paired 95 % interval of the "
    "difference reaches 0"
)


def draw(arm: str, quality: Mapping[int, Table], cost: Mapping[int, tuple[float, float | None]], seed: int) -> Curve:
    """From nDCG@10 and the candidates' recall of every query (two columns), and tokens and milliseconds, by depth."""
    points = []
    for depth, values in quality.items():
        ndcg, recall = estimates([values], seed)
        points.append(Point(depth, ndcg, recall, *cost[depth]))
    return Curve(arm, tuple(points), _knee(quality, seed), RULE)


def _knee(quality: Mapping[int, Table], seed: int) -> int:
    best = max(quality, key=lambda depth: float(quality[depth][:, 0].mean()))
    for depth in sorted(quality):
        (behind,) = estimates([quality[depth][:, :1] - quality[best][:, :1]], seed)
        if behind.high >= 0:
            return depth
    return best
