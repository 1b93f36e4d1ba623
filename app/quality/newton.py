"""Newton's method for convex losses whose weights have a floor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

Loss = Callable[[Numbers], tuple[float, Numbers, Numbers]]
"""Of weights, with its slope and its curvature there."""

STEPS = 100
"""It needs about ten."""
SHORTEST = 1e-3
STILL = 1e-6


def minimum(loss: Loss, start: Numbers, floor: Numbers) -> Numbers:
    """The weights of least loss, none below its floor. A step that goes too far is halved."""
    weights = start
    for _ in range(STEPS):
        before, slope, curvature = loss(weights)
        free = (weights > floor) | (slope < 0)
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], -slope[free])
        length, moved = 1.0, np.maximum(weights + step, floor)
        while loss(moved)[0] > before and length > SHORTEST:
            length /= 2
            moved = np.maximum(weights + length * step, floor)
        if np.abs(moved - weights).max(initial=0.0) < STILL:
            break
        weights = moved
    return weights
