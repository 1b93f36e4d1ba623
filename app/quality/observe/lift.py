"""Lift: what reranking makes of the first stage's ten best."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from app.quality.observe.types import Lift, figure
from app.quality.statistics import mean_of, share
from app.types import Hit, Mode
from app.witness import BEST, Sighting

WINDOW = 1000
PERSISTENCE = 0.9
"""How likely a reader of one rank is to go on to the next: the first ten then have most of the weight."""


@dataclass(frozen=True, slots=True)
class Change:
    """From the first stage's ten best to those of the answer."""

    overlap: float
    correlation: float
    unchanged: bool


class LiftWatch:
    """Of one collection."""

    def __init__(self) -> None:
        self._changes: deque[Change] = deque(maxlen=WINDOW)

    def add(self, sighting: Sighting) -> None:
        """If more could have come among those that are compared, and no deadline forbade it."""
        if sighting.reranked and len(sighting.hits) > BEST and not sighting.late:
            self._changes.append(change(sighting.mode, sighting.hits))

    def report(self) -> Lift | None:
        every, count = list(self._changes), len(self._changes)
        unchanged = share(sum(each.unchanged for each in every), count)
        if unchanged is None:
            return None
        overlap, correlation = mean_of([each.overlap for each in every]), mean_of([each.correlation for each in every])
        return Lift(figure(overlap, count), figure(correlation, count), figure(unchanged, count))


def change(mode: Mode, hits: Sequence[Hit]) -> Change:
    """The order of hits beside that of the first stage."""
    stage = "late" if "late" in hits[0].stages else "fused" if mode == "hybrid" else mode
    proposed = sorted(range(len(hits)), key=lambda place: hits[place].stages[stage].rank or len(hits))[:BEST]
    shared = [len(set(proposed[:depth]) & set(range(depth))) for depth in range(1, BEST + 1)]
    return Change(shared[-1] / BEST, overlap_by_rank(shared), proposed == list(range(BEST)))


def overlap_by_rank(shared: Sequence[int]) -> float:
    """Rank-biased overlap (Webber, Moffat and Zobel, 2010), extrapolated from how many two rankings have in common in
    their first, first two, … ranks."""
    agreement = [each / depth for depth, each in enumerate(shared, 1)]
    weighed = sum(PERSISTENCE**depth * each for depth, each in enumerate(agreement, 1))
    return agreement[-1] * PERSISTENCE ** len(shared) + weighed * (1 - PERSISTENCE) / PERSISTENCE
