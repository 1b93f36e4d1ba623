"""Drift: whether what searches ask and find today is still like what they asked and found before."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from app.quality.observe.types import Drift, Signal
from app.types import Vector
from app.witness import Sighting

WINDOW = 500
"""Searches of a reference, and of the window that is compared with it."""

LEAST = 100
NULL = 1.95
"""Kolmogorov's distribution is below this in 999 of 1000 cases."""

LOW = 0.05
"""Of the reference's top scores, the share that count as low."""

Numbers = Mapping[str, float]
"""One search's signals."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Searches that later ones are compared with."""

    kind: str
    since: str
    signals: Mapping[str, tuple[float, ...]]

    @property
    def searches(self) -> int:
        return len(self.signals["top_score"])

    @property
    def low_score(self) -> float:
        """A top score below which few searches were."""
        return float(np.quantile(self.signals["top_score"], LOW))


class DriftWatch:
    """Of one collection. Searches of each kind are kept apart, since their scores are on different scales."""

    def __init__(self, reference: Reference | None = None) -> None:
        self.reference = reference
        self._recent: dict[str, deque[Numbers]] = {}

    def add(self, kind: str, signals: Numbers) -> bool:
        """Takes the first full window for the reference if there is none; says whether it did."""
        recent = self._recent.setdefault(kind, deque(maxlen=WINDOW))
        recent.append(signals)
        return self.reference is None and len(recent) == WINDOW and self.refer(kind)

    def refer(self, kind: str | None = None) -> bool:
        """Take the window of lately for the reference: that of the commonest kind; False if it has too few searches."""
        kind = kind or max(self._recent, key=lambda each: len(self._recent[each]), default="")
        recent = self._recent.get(kind, ())
        if len(recent) < LEAST:
            return False
        self.reference = Reference(kind, datetime.now(UTC).isoformat(timespec="seconds"), _columns(recent))
        self._recent.pop(kind)
        return True

    def is_low(self, kind: str, top_score: float) -> bool:
        """Whether so low a top score is rare in the reference."""
        return self.reference is not None and self.reference.kind == kind and top_score < self.reference.low_score

    def report(self) -> Drift | None:
        if self.reference is None:
            return None
        now, before = _columns(self._recent.get(self.reference.kind, ())), self.reference.signals
        signals = [_signal(name, before[name], now[name]) for name in before if name in now]
        return Drift(self.reference.kind, self.reference.since, self.reference.searches, signals)


def kind_of(sighting: Sighting) -> str:
    return f"{sighting.mode}, {'reranked' if sighting.reranked else 'not reranked'}"


def signals(sighting: Sighting, centre: Vector | None) -> Numbers | None:
    """What one search says; None where it has nothing comparable to say."""
    if not sighting.hits or sighting.late:
        return None
    said = {"top_score": max(hit.score for hit in sighting.hits)}
    if (near := nearest(sighting)) is not None:
        said["query_distance"] = near
    if sighting.vector is not None and centre is not None:
        said["corpus_distance"] = 1 - float(sighting.vector @ centre)
    return said


def nearest(sighting: Sighting) -> float | None:
    """From the query to the nearest chunk that was found."""
    cosines = [hit.stages["dense"].score for hit in sighting.hits if "dense" in hit.stages]
    return 1 - max(cosines) if cosines else None


def kolmogorov_smirnov(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference between two empirical distributions."""
    ours, theirs = np.sort(one), np.sort(other)
    at = np.concatenate([ours, theirs])
    below = [np.searchsorted(each, at, side="right") / len(each) for each in (ours, theirs)]
    return float(np.abs(below[0] - below[1]).max())


def null_level(one: int, other: int) -> float:
    """What the distance of two samples of the same distribution hardly ever reaches; ties make that rarer still."""
    return float(NULL * np.sqrt((one + other) / (one * other)))


def _columns(searches: Collection[Numbers]) -> dict[str, tuple[float, ...]]:
    """Each signal that enough of them have."""
    names = dict.fromkeys(name for each in searches for name in each)
    columns = {name: tuple(each[name] for each in searches if name in each) for name in names}
    return {name: values for name, values in columns.items() if len(values) >= LEAST}


def _signal(name: str, before: Sequence[float], now: Sequence[float]) -> Signal:
    distance, null = kolmogorov_smirnov(before, now), null_level(len(before), len(now))
    return Signal(
        name=name,
        distance=distance,
        null=null,
        moved=distance > null,
        median=float(np.median(now)),
        reference_median=float(np.median(before)),
        searches=len(now),
    )
