"""Depth: where the best answers stand when more candidates are reranked than searches have."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.quality.observe.types import LEAST, Depth, figure
from app.quality.statistics import share

WINDOW = 500
HELD = 0.95
"""Of the best answers, what the depth that is named would have held."""


@dataclass(frozen=True, slots=True)
class Sounding:
    """One search that was looked at once more."""

    candidates: int
    """How many it had."""
    read: int
    """How many of them the reranker read."""
    depth: int
    places: tuple[int, ...]
    """Of the best answers, in the first stage's order, counted from 1."""
    missed: int
    """Those of them that it did not have."""

    @property
    def needed(self) -> int:
        return max(self.places)


class DepthWatch:
    """Of one collection."""

    def __init__(self) -> None:
        self._soundings: deque[Sounding] = deque(maxlen=WINDOW)

    def add(self, sounding: Sounding) -> None:
        self._soundings.append(sounding)

    @property
    def missed_share(self) -> float | None:
        """None as long as too few searches say so for anybody to act on it."""
        if len(self._soundings) < LEAST:
            return None
        return float(np.mean([each.missed > 0 for each in self._soundings]))

    def report(self, takes: Callable[[int], float]) -> Depth | None:
        """With what another depth would cost, where so many pairs take so many seconds and as much of it is read."""
        every = list(self._soundings)
        missed = share(sum(each.missed > 0 for each in every), len(every))
        if missed is None:
            return None
        usual = int(np.median([each.candidates for each in every]))
        read = float(np.mean([each.read / each.candidates for each in every]))
        places = np.concatenate([each.places for each in every])
        needed = int(np.quantile(places, HELD, method="higher"))
        return Depth(
            candidates=usual,
            looked_at=round(float(np.mean([each.depth for each in every]))),
            missed=figure(missed, len(every)),
            missed_answers=sum(each.missed for each in every) / len(places),
            needed=needed,
            costs_ms=1000 * (takes(round(read * needed)) - takes(round(read * usual))),
        )
