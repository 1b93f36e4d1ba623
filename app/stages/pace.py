"""Pace: how many candidates to read next, so that a deadline is kept and none is read that changes nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from models.types import Scores

LEAST = 4
"""Texts of a wave: fewer would cost a device about as much."""

SHARE = 0.7
"""Of the time that is left, what a wave is given: how long it takes is a guess, and the next one can make up for it."""


def wave(costs: Sequence[int], seconds: float, takes: Callable[[int], float]) -> int:
    """How many of the texts that are left can be read in time, by what so many tokens take; 0 when it is too late."""
    totals = list(accumulate(costs))
    amount = bisect_right(totals, SHARE * seconds, key=takes)
    least = min(LEAST, len(costs))
    if amount >= least:
        return amount
    return least if least and takes(totals[least - 1]) <= seconds else 0


def stride(top_k: int) -> int:
    """How many texts to read before looking whether they changed the top."""
    return max(LEAST, -(-top_k // 2))


def top(final: Scores, top_k: int) -> set[int]:
    """Those that would be the answer if nothing else were read."""
    return set(np.argsort(-final, kind="stable")[:top_k].tolist())


def enough(final: Scores, top_k: int) -> int:
    """How many are read, in their order, until reading on changes the top no more."""
    before: set[int] | None = None
    for read in range(stride(top_k), len(final), stride(top_k)):
        now = top(final[:read], top_k)
        if now == before:
            return read
        before = now
    return len(final)
