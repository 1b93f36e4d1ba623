"""Does a measure grow? A line through its samples, how sure it is, and how much growth would matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOWS = 60
"""Parts of a run, whose samples count together."""
WARM = 0.25
"""Share of a run that does not count: caches fill, pools open, the allocator finds its size."""
SURE = 1.96


@dataclass(frozen=True, slots=True)
class Measure:
    """What is sampled, and what growth over a run is taken for noise: a share of the level, but at least so much."""

    name: str
    unit: str
    share: float
    least: float
    floor: bool = False
    """Whether the lowest sample of a window counts, not the middle one: what is held while nothing is under way."""


@dataclass(frozen=True, slots=True)
class Window:
    """The samples of some time."""

    minute: float
    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class Trend:
    """The line through a measure's windows, by the median of the slopes between any two, with its 95 % interval."""

    measure: Measure
    windows: tuple[Window, ...]
    level: float
    """The median."""
    slope: float
    low: float
    high: float
    """Per minute."""
    start: float
    minutes: float
    """Where the line begins, and how long it is."""

    @property
    def bearable(self) -> float:
        """Growth over the line that would not matter."""
        return max(self.measure.share * self.level, self.measure.least)

    @property
    def grows(self) -> bool:
        """Surely, and by more than is borne."""
        return self.low > 0 and self.slope * self.minutes > self.bearable

    def at(self, minute: float) -> float:
        return self.level + self.slope * (minute - self.start - self.minutes / 2)

    def __str__(self) -> str:
        name, unit = self.measure.name, f" {self.measure.unit}".rstrip()
        verdict = f"GROWS by more than {self.bearable:.2g}{unit}" if self.grows else "is flat"
        change, low, high = (f"{each * self.minutes:+.2g}" for each in (self.slope, self.low, self.high))
        return (
            f"{name} {verdict}: {self.level:,.4g}{unit}, {change} in {self.minutes:.0f} minutes (95 % {low} … {high})"
        )


def trend(measure: Measure, minutes: Sequence[float], values: Sequence[float]) -> Trend:
    """Theil and Sen's: half of the windows could be outliers. Steps and saw teeth count as what they come to."""
    windows = _windows(minutes, values)
    warm = windows[0].minute + WARM * (windows[-1].minute - windows[0].minute)
    kept = [(each.minute, each.low if measure.floor else each.middle) for each in windows if each.minute >= warm]
    x, y = (np.array(each, np.float64) for each in zip(*kept, strict=True))
    first, second = np.triu_indices(len(x), 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    width = SURE * np.sqrt(len(x) * (len(x) - 1) * (2 * len(x) + 5) / 18)
    low, high = (int(np.clip((len(slopes) + side * width) // 2, 0, len(slopes) - 1)) for side in (-1, 1))
    return Trend(
        measure, windows, float(np.median(y)), float(np.median(slopes)), float(slopes[low]), float(slopes[high]),
        float(x[0]), float(x[-1] - x[0]),
    )  # fmt: skip


def _windows(minutes: Sequence[float], values: Sequence[float]) -> tuple[Window, ...]:
    """Of about as many samples each; one for which there was nothing to measure is left out."""
    known = np.array([pair for pair in zip(minutes, values, strict=True) if np.isfinite(pair[1])], np.float64)
    return tuple(
        Window(float(part[:, 0].mean()), *map(float, np.percentile(part[:, 1], [0, 50, 100])))
        for part in np.array_split(known, min(WINDOWS, len(known)))
    )
