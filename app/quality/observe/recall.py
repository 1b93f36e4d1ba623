"""Recall: how much of the exact answer the graph finds, by effort, and the least effort that meets an objective."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from app.quality.observe.types import LEAST, Figure, Recall, figure
from app.quality.statistics import clustered_share
from app.witness import DEPTHS

WINDOW = 500
"""Searches that a figure is from: those of lately."""

SURE = 200
"""Searches without which the effort is not lowered, nor raised for a doubt alone."""

JUDGED_BY = 10
"""The k of the objective."""

STEP, MOST_TIMES = 2, 16
"""Efforts that tuning may take: the one that is set and its doubles, up to so many times as much."""

Values = deque[float]


class RecallWatch:
    """Of one collection. While it is tuned, the efforts next to the present one are tried on the same searches, so that
    nobody's answer is worse for it."""

    def __init__(self, objective: float, configured: int, *, tuned: bool, ef: int | None = None) -> None:
        self.ef = ef or configured
        self._objective, self._configured, self._tuned = objective, configured, tuned
        self._found: dict[int, dict[int, Values]] = {}

    @property
    def efforts(self) -> list[int]:
        """Those to compare with the exact answer."""
        return [self.ef, *self._neighbours] if self._tuned else [self.ef]

    def add(self, found: Mapping[int, Mapping[int, float]]) -> None:
        for ef, recalls in found.items():
            for k, share in recalls.items():
                self._found.setdefault(ef, {}).setdefault(k, deque(maxlen=WINDOW)).append(share)

    def at(self, k: int, ef: int | None = None) -> Figure | None:
        values = self._found.get(ef or self.ef, {}).get(k)
        return figure(clustered_share(list(values), k), len(values)) if values else None

    def retuned(self) -> bool:
        """Change the effort if what was seen calls for it; says whether it did."""
        ef = self._better() if self._tuned else self.ef
        changed, self.ef = ef != self.ef, ef
        self._found = {ef: found for ef, found in self._found.items() if ef in self.efforts}
        return changed

    def report(self) -> Recall | None:
        at = {k: found for k in DEPTHS if (found := self.at(k))}
        exhausted = self._tuned and self.ef >= self._highest
        return Recall(self._objective, self.ef, self._configured, self._tuned, exhausted, at) if at else None

    @property
    def _highest(self) -> int:
        return self._configured * MOST_TIMES

    @property
    def _neighbours(self) -> list[int]:
        return [ef for ef in (self.ef // STEP, self.ef * STEP) if self._configured <= ef <= self._highest]

    def _better(self) -> int:
        here, below = self.at(JUDGED_BY), self.at(JUDGED_BY, self.ef // STEP)
        if here and self._misses(here):
            return min(self.ef * STEP, self._highest)
        holds = below and below.searches >= SURE and below.low >= self._objective
        return self.ef // STEP if holds and self.ef > self._configured else self.ef

    def _misses(self, found: Figure) -> bool:
        """The mean does, with enough searches; or what may lie below it, when more searches would not tell."""
        doubt = found.searches >= SURE and found.low < self._objective
        return doubt or (found.searches >= LEAST and found.value < self._objective)
