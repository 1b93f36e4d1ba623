"""Refresh: among answers that are about as good, the newer one first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.types import Scores

DAY = 24 * 3600 * 1_000_000
"""In microseconds, as dates are kept."""


@dataclass(frozen=True, slots=True)
class Recency:
    """How much newness counts: what is of this moment gains so much of the distance from the worst to the best."""

    weight: float
    half_life_days: float


def refreshed(scores: Scores, dates: Sequence[int | None], now: int, recency: Recency) -> Scores:
    """Scores with what newness adds; nothing for what has no date. What is dated ahead counts as of this moment."""
    ages = np.array([np.inf if date is None else max(now - date, 0) / DAY for date in dates])
    fresh = np.power(0.5, ages / recency.half_life_days)
    spread = float(np.ptp(scores)) if len(scores) else 0.0
    return np.asarray(scores + recency.weight * spread * fresh, np.float32)
